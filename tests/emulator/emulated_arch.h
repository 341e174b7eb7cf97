// The emulator's twin of every primitive of csrc/cuda/arch.cuh, with the same contract; included by it when
// SYMCONV_EMULATOR is defined. Everything that touches the kernel's memory is here, in code that the
// sanitizers see.
#pragma once

#include <cmath>
#include <cstring>

#include "../../csrc/cpu/scalar.h"
#include "memory.h"
#include "scheduler.h"

namespace symconv::cuda {

using emulator::Site;

#define SYMCONV_DYNAMIC_SHARED(name) \
  unsigned char* name = reinterpret_cast<unsigned char*>(::symconv::emulator::shared_base())

inline int lane_id() { return emulator::lane_index(); }

inline void block_barrier(Site site = Site::here()) { emulator::block_barrier(site); }
inline void warp_barrier(Site site = Site::here()) { emulator::warp_barrier(site); }

inline uint32_t shuffle_xor(uint32_t value, int lane_mask, Site site = Site::here()) {
  emulator::ShuffleOperand operand{value, lane_mask};
  emulator::warp_collective(emulator::Collective::kShuffleXor, 0, &operand, site);
  return operand.value;
}
inline float shuffle_xor(float value, int lane_mask, Site site = Site::here()) {
  return cpu::bits::to_float(shuffle_xor(cpu::bits::from_float(value), lane_mask, site));
}

inline SharedAddress shared_address(const void* pointer) {
  return static_cast<SharedAddress>(static_cast<const char*>(pointer) - emulator::shared_base());
}

inline int keep_here(int value) { return value; }
template <typename T>
T* keep_here(T* pointer) {
  return pointer;
}
template <typename T>
const T* advanced(const T* pointer, int by) {
  return pointer + by;
}
template <typename T>
void forget(T& value) {
  memset(&value, 0xff, sizeof(T));  // no number
}

template <int Bytes>
void copy_async(SharedAddress destination, const void* source, uint32_t valid, Site site = Site::here()) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async copies 4, 8 or 16 bytes");
  char* to = emulator::shared_pointer(destination, Bytes, "cp.async", site);
  if (valid) {
    emulator::check_global(source, Bytes, Bytes, "cp.async", site);
    emulator::log_access(emulator::Access::kGlobalLoad, reinterpret_cast<uintptr_t>(source), Bytes, true,
                         site);
  } else {
    if (reinterpret_cast<uintptr_t>(source) % Bytes != 0)
      emulator::fail("cp.async: global address is not aligned", site);
    emulator::log_access(emulator::Access::kGlobalLoad, 0, Bytes, false, site);
  }
  emulator::log_access(emulator::Access::kCopyToShared, destination, Bytes, true, site);
  for (int i = 0; i < Bytes; ++i) to[i] = static_cast<char>(0xff);  // poison until the wait
  emulator::copy_issue({to, valid ? static_cast<const char*>(source) : nullptr, Bytes, 0});
}
inline void copy_commit() { emulator::copy_commit(); }
template <int Pending>
void copy_wait() {
  while (const emulator::PendingCopy* due = emulator::copy_due(Pending)) {
    for (int i = 0; i < due->bytes; ++i) due->destination[i] = due->source ? due->source[i] : '\0';
  }
}

namespace emulated {
template <int Matrices>
void load_matrices(uint32_t (&r)[Matrices], SharedAddress row, emulator::Collective op, Site site) {
  static_assert(Matrices == 1 || Matrices == 2 || Matrices == 4, "ldmatrix loads 1, 2 or 4 matrices");
  emulator::LdmatrixOperand operand{};
  operand.address = row;
  if (emulator::lane_index() < 8 * Matrices) {
    const char* from = emulator::shared_pointer(row, 16, "ldmatrix", site);
    for (int i = 0; i < 4; ++i) operand.row[i] = reinterpret_cast<const uint32_t*>(from)[i];
  }
  emulator::warp_collective(op, Matrices, &operand, site);
  for (int m = 0; m < Matrices; ++m) r[m] = operand.result[m];
}
inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], emulator::Collective op,
                Site site) {
  emulator::MmaOperand operand{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {c[0], c[1], c[2], c[3]}};
  emulator::warp_collective(op, 0, &operand, site);
  for (int i = 0; i < 4; ++i) c[i] = operand.c[i];
}
}  // namespace emulated

template <int Matrices>
void load_matrices(uint32_t (&r)[Matrices], SharedAddress row, Site site = Site::here()) {
  emulated::load_matrices(r, row, emulator::Collective::kLdmatrix, site);
}
template <int Matrices>
void load_matrices_transposed(uint32_t (&r)[Matrices], SharedAddress row, Site site = Site::here()) {
  emulated::load_matrices(r, row, emulator::Collective::kLdmatrixTransposed, site);
}

template <typename T>
void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site = Site::here()) = delete;
template <>
inline void mma<Float16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  emulated::mma(c, a, b, emulator::Collective::kMmaF16, site);
}
template <>
inline void mma<BFloat16>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  emulated::mma(c, a, b, emulator::Collective::kMmaBf16, site);
}
template <>
inline void mma<TensorFloat32>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Site site) {
  emulated::mma(c, a, b, emulator::Collective::kMmaTf32, site);
}

inline uint32_t to_tf32(float value) {  // nearest, ties away from zero
  const uint32_t bits = cpu::bits::from_float(value);
  return std::isfinite(value) ? (bits + 0x1000u) & 0xffffe000u : bits;
}

inline float word_to_float(uint32_t word) { return cpu::bits::to_float(word); }

inline float to_float(Float16 h) {
  cpu::Float16 c;
  c.u = h.u;
  return static_cast<float>(c);
}
inline float to_float(BFloat16 h) {
  cpu::BFloat16 c;
  c.u = h.u;
  return static_cast<float>(c);
}
template <typename T>
T from_float(float f) = delete;
template <>
inline Float16 from_float<Float16>(float f) {
  return {cpu::Float16(f).u};
}
template <>
inline BFloat16 from_float<BFloat16>(float f) {
  return {cpu::BFloat16(f).u};
}

template <typename T>
uint32_t pack2(float low, float high) {
  return from_float<T>(low).u | static_cast<uint32_t>(from_float<T>(high).u) << 16;
}
template <typename T>
uint32_t fma2(uint32_t a, uint32_t b, uint32_t c) {
  emulator::count_packed_math();
  auto half = [](uint32_t word, int i) {
    return static_cast<double>(to_float(T{static_cast<uint16_t>(i ? word >> 16 : word)}));
  };
  return pack2<T>(static_cast<float>(half(a, 0) * half(b, 0) + half(c, 0)),
                  static_cast<float>(half(a, 1) * half(b, 1) + half(c, 1)));
}
template <typename T>
uint32_t fms2(uint32_t a, uint32_t b, uint32_t c) {
  return fma2<T>(a, b, c ^ 0x80008000u);
}
template <typename T>
uint32_t mul2(uint32_t a, uint32_t b) {
  return fma2<T>(a, b, 0x80008000u);
}

template <typename V>
V load_shared(SharedAddress address, bool active = true, Site site = Site::here()) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16, "4, 8 or 16 bytes");
  emulator::log_access(emulator::Access::kSharedLoad, address, sizeof(V), active, site);
  return active
             ? *reinterpret_cast<const V*>(emulator::shared_pointer(address, sizeof(V), "load_shared", site))
             : V{};
}
template <typename V>
void store_shared(SharedAddress address, const V& v, bool active = true, Site site = Site::here()) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16, "4, 8 or 16 bytes");
  emulator::log_access(emulator::Access::kSharedStore, address, sizeof(V), active, site);
  if (active) *reinterpret_cast<V*>(emulator::shared_pointer(address, sizeof(V), "store_shared", site)) = v;
}

template <typename V>
V load_global(const void* pointer, bool active = true, Site site = Site::here()) {
  if (active) emulator::check_global(pointer, sizeof(V), alignof(V), "load_global", site);
  emulator::log_access(emulator::Access::kGlobalLoad, reinterpret_cast<uintptr_t>(pointer), sizeof(V), active,
                       site);
  return active ? *static_cast<const V*>(pointer) : V{};
}
template <typename V>
void store_global(void* pointer, const V& v, bool active = true, Site site = Site::here()) {
  if (active) emulator::check_global(pointer, sizeof(V), alignof(V), "store_global", site);
  emulator::log_access(emulator::Access::kGlobalStore, reinterpret_cast<uintptr_t>(pointer), sizeof(V),
                       active, site);
  if (active) *static_cast<V*>(pointer) = v;
}

}  // namespace symconv::cuda
