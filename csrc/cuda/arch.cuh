// What the kernels ask of the machine: the only place with PTX. Each primitive has a twin in tests/emulator
// (emulated_arch.h), which is what a host compiler gets.
//
// Contracts (warp-wide: all 32 lanes of a warp must make the call together):
//   block_barrier()               every thread of the block; orders shared and global memory between them
//   warp_barrier()                warp-wide; orders memory between its lanes. No other warp-wide primitive
//   does. shuffle_xor(v, m)             warp-wide; the value of lane (lane ^ m) copy_async<Bytes>(d, s, ok)
//   starts a copy of 4, 8 or 16 bytes to shared memory, zeros where !ok (s is not read then); d and s
//                                 aligned to Bytes. The destination may not be touched before the wait.
//   copy_commit(), copy_wait<N>() closes a group of this thread's copies; waits until at most N of its groups
//   are under way. A barrier
//                                 must follow before other threads read.
//   load_matrices<M>(r, row)      warp-wide ldmatrix: lane 8 m + i gives the address of row i (16 bytes) of
//   8x8 matrix m, for M = 1,
//                                 2, 4; r[m] of lane l holds elements 2 (l % 4), 2 (l % 4) + 1 of row l / 4
//   load_matrices_transposed<M>   the same of the transposed matrices
//   mma<T>(c, a, b)               warp-wide C (16 x 8, float32) += A (16 x 16, row) B (16 x 8, column) for
//   Float16 and BFloat16, depth 8
//                                 for TensorFloat32. With g = lane / 4, t = lane % 4: c[2i + j] is (g + 8 i,
//                                 2 t + j); 16-bit: a[i + 2 k] holds (g + 8 i, 2 t + 8 k) and its right
//                                 neighbour, b[k] holds (2 t + 8 k, g) and the one below; tf32: a[i + 2 k] is
//                                 (g + 8 i, t + 4 k), b[k] is (t + 4 k, g)
//   fma2, fms2, mul2              a b + c, a b - c, a b on two 16-bit numbers in a word, rounded once
//   load_shared, store_shared     4, 8 or 16 bytes at a shared address; load_global, store_global the same at
//   a pointer. The loads
//                                 give zeros and the stores do nothing where !active.
//   keep_here(v)                  v; what is computed from it is computed here, not before a loop around it,
//                                 and from nothing else. For loops that have no registers left.
//   advanced(p, n)                p + n, computed here by one instruction
//   forget(v)                     v is no number any more, and its register is free until it is one again
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

namespace symconv::cuda {

// 16-bit formats as storage; arithmetic goes through to_float and from_float, or packed through fma2 and
// mul2.
struct Float16 {
  uint16_t u;
};
struct BFloat16 {
  uint16_t u;
};
struct TensorFloat32 {};  // names the arithmetic; operands are float32 words rounded by to_tf32

struct alignas(8) Word2 {
  uint32_t word[2];
};
struct alignas(16) Word4 {
  uint32_t word[4];
};

constexpr int kWarpSize = 32;

// An address in the block's shared memory, in bytes.
using SharedAddress = uint32_t;

}  // namespace symconv::cuda

#if defined(SYMCONV_EMULATOR)
#include "emulated_arch.h"
#else

namespace symconv::cuda {

// Declares `name`, the block's dynamic shared memory, as bytes aligned to 16.
#define SYMCONV_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]

__device__ __forceinline__ int lane_id() { return static_cast<int>(threadIdx.x) & (kWarpSize - 1); }

__device__ __forceinline__ void block_barrier() { __syncthreads(); }
__device__ __forceinline__ void warp_barrier() { __syncwarp(); }

__device__ __forceinline__ uint32_t shuffle_xor(uint32_t value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}
__device__ __forceinline__ float shuffle_xor(float value, int lane_mask) {
  return __shfl_xor_sync(0xffffffffu, value, lane_mask);
}

__device__ __forceinline__ SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ int keep_here(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
template <typename T>
__device__ __forceinline__ T* keep_here(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}

template <typename T>
__device__ __forceinline__ void forget(T& value) {
  static_assert(sizeof(T) == 4, "a register");
  uint32_t word;
  asm volatile("" : "=r"(word));
  memcpy(&value, &word, 4);
}
template <typename T, int N>
__device__ __forceinline__ void forget(T (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) forget(values[i]);
}

template <typename T>
__device__ __forceinline__ const T* advanced(const T* pointer, int by) {
  // What is known about `by` would become two sums of 32 bits each.
  return keep_here(pointer + keep_here(by));
}

template <int Bytes>
__device__ __forceinline__ void copy_async(SharedAddress destination, const void* source, uint32_t valid) {
  if constexpr (Bytes == 16) {
    asm volatile(
        "{ .reg .pred ignored; setp.eq.u32 ignored, %2, 0;"
        "  cp.async.cg.shared.global [%0], [%1], 16, ignored; }" ::"r"(destination),
        "l"(source), "r"(valid)
        : "memory");
  } else {
    static_assert(Bytes == 4 || Bytes == 8, "cp.async copies 4, 8 or 16 bytes");
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(destination), "l"(source), "n"(Bytes),
                 "r"(valid ? Bytes : 0)
                 : "memory");
  }
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

template <int Matrices>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[Matrices], SharedAddress row) {
  static_assert(Matrices == 1 || Matrices == 2 || Matrices == 4, "ldmatrix loads 1, 2 or 4 matrices");
  if constexpr (Matrices == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
  } else if constexpr (Matrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(row)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(row) : "memory");
  }
}
template <int Matrices>
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[Matrices], SharedAddress row) {
  static_assert(Matrices == 1 || Matrices == 2 || Matrices == 4, "ldmatrix loads 1, 2 or 4 matrices");
  if constexpr (Matrices == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
  } else if constexpr (Matrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(row)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(row)
                 : "memory");
  }
}

#define SYMCONV_MMA(shape_and_types)                             \
  asm volatile("mma.sync.aligned." shape_and_types               \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
               "{%0, %1, %2, %3};"                               \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
__device__ __forceinline__ void mma<Float16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  SYMCONV_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
template <>
__device__ __forceinline__ void mma<BFloat16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  SYMCONV_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
template <>
__device__ __forceinline__ void mma<TensorFloat32>(float (&c)[4], const uint32_t (&a)[4],
                                                   const uint32_t (&b)[2]) {
  SYMCONV_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
#undef SYMCONV_MMA

__device__ __forceinline__ uint32_t to_tf32(float value) {
  uint32_t word;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(word) : "f"(value));
  return word;
}

__device__ __forceinline__ float to_float(Float16 h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h.u));
  return f;
}
__device__ __forceinline__ float to_float(BFloat16 h) {
  return __uint_as_float(static_cast<uint32_t>(h.u) << 16);
}

template <typename T>
__device__ __forceinline__ T from_float(float f);
template <>
__device__ __forceinline__ Float16 from_float<Float16>(float f) {
  Float16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.u) : "f"(f));
  return h;
}
template <>
__device__ __forceinline__ BFloat16 from_float<BFloat16>(float f) {
  BFloat16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.u) : "f"(f));
  return h;
}

__device__ __forceinline__ float word_to_float(uint32_t word) { return __uint_as_float(word); }

// Two floats as a word of two 16-bit numbers, `low` in the low half.
template <typename T>
__device__ __forceinline__ uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack2<Float16>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
template <>
__device__ __forceinline__ uint32_t pack2<BFloat16>(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

template <typename T>
__device__ __forceinline__ uint32_t negative2(uint32_t word);
template <>
__device__ __forceinline__ uint32_t negative2<Float16>(uint32_t word) {
  uint32_t negative;
  asm("neg.f16x2 %0, %1;" : "=r"(negative) : "r"(word));
  return negative;
}
template <>
__device__ __forceinline__ uint32_t negative2<BFloat16>(uint32_t word) {
  uint32_t negative;
  asm("neg.bf16x2 %0, %1;" : "=r"(negative) : "r"(word));
  return negative;
}

template <typename T>
__device__ __forceinline__ uint32_t fma2(uint32_t a, uint32_t b, uint32_t c);
template <>
__device__ __forceinline__ uint32_t fma2<Float16>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
template <>
__device__ __forceinline__ uint32_t fma2<BFloat16>(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
template <typename T>
__device__ __forceinline__ uint32_t fms2(uint32_t a, uint32_t b, uint32_t c) {
  return fma2<T>(a, b, negative2<T>(c));  // one instruction
}
template <typename T>
__device__ __forceinline__ uint32_t mul2(uint32_t a, uint32_t b) {
  return fma2<T>(a, b, 0x80008000u);  // - 0: keeps the sign of a zero product
}

template <typename V>
__device__ __forceinline__ V load_shared(SharedAddress address, bool active = true) {
  V v{};
  if (active) {
    if constexpr (sizeof(V) == 16) {
      auto* w = reinterpret_cast<uint32_t*>(&v);
      asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                   : "r"(address)
                   : "memory");
    } else if constexpr (sizeof(V) == 8) {
      auto* w = reinterpret_cast<uint32_t*>(&v);
      asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "r"(address) : "memory");
    } else {
      static_assert(sizeof(V) == 4, "4, 8 or 16 bytes");
      asm volatile("ld.shared.b32 %0, [%1];"
                   : "=r"(*reinterpret_cast<uint32_t*>(&v))
                   : "r"(address)
                   : "memory");
    }
  }
  return v;
}
template <typename V>
__device__ __forceinline__ void store_shared(SharedAddress address, const V& v, bool active = true) {
  if (active) {
    const auto* w = reinterpret_cast<const uint32_t*>(&v);
    if constexpr (sizeof(V) == 16) {
      asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(w[0]), "r"(w[1]), "r"(w[2]),
                   "r"(w[3])
                   : "memory");
    } else if constexpr (sizeof(V) == 8) {
      asm volatile("st.shared.v2.b32 [%0], {%1, %2};" ::"r"(address), "r"(w[0]), "r"(w[1]) : "memory");
    } else {
      static_assert(sizeof(V) == 4, "4, 8 or 16 bytes");
      asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(w[0]) : "memory");
    }
  }
}

template <typename V>
__device__ __forceinline__ V load_global(const void* pointer, bool active = true) {
  return active ? *static_cast<const V*>(pointer) : V{};
}
template <typename V>
__device__ __forceinline__ void store_global(void* pointer, const V& v, bool active = true) {
  if (active) *static_cast<V*>(pointer) = v;
}

}  // namespace symconv::cuda

#endif  // SYMCONV_EMULATOR
