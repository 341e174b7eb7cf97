// The probes' kernels, written as csrc/cuda writes its own, and their launches.
#include "probes.h"

#include <stdexcept>

#include "../../csrc/cuda/arch.cuh"

namespace symconv::probes {

using namespace symconv::cuda;

namespace {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Arguments... arguments) {
  cudaLaunchConfig_t config;
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

}  // namespace

constexpr int kTile = 64, kDepth = 32, kStages = 3, kStageBytes = 2 * kTile * kDepth * 2;

// Chunk (8 numbers) `chunk` of row `row` of a 64 x 32 tile, so placed that eight consecutive rows lie in all
// banks.
__device__ inline uint32_t tile_offset(int row, int chunk, bool swizzle) {
  return static_cast<uint32_t>(row * 64 + ((swizzle ? chunk ^ (row >> 1 & 3) : chunk) * 16));
}

__global__ void gemm_kernel(const BFloat16* a, const BFloat16* b, float* c, int n, int k, Bug bug) {
  SYMCONV_DYNAMIC_SHARED(memory);
  const SharedAddress base = shared_address(memory);
  const int thread = static_cast<int>(threadIdx.x), lane = lane_id(), warp = thread / kWarpSize;
  const int row0 = static_cast<int>(blockIdx.x) * kTile, column0 = static_cast<int>(blockIdx.y) * kTile;
  const bool swizzle = bug != Bug::kNoSwizzle;
  const int tiles = k / kDepth;
  float accumulators[2][4][4] = {};

  auto fetch = [&](int tile) {
    if (tile < tiles) {
      const SharedAddress stage = base + static_cast<uint32_t>(tile % kStages * kStageBytes);
      for (int i = thread; i < kTile * 4; i += 128) {
        const int row = i / 4, chunk = i % 4;
        const int64_t shift = bug == Bug::kMisalignedCopy ? 4 : bug == Bug::kLoadOverflow ? 8 : 0;
        copy_async<16>(stage + tile_offset(row, chunk, swizzle),
                       a + static_cast<int64_t>(row0 + row) * k + tile * kDepth + chunk * 8 + shift, true);
        copy_async<16>(stage + kTile * 64 + tile_offset(row, chunk, swizzle),
                       b + static_cast<int64_t>(column0 + row) * k + tile * kDepth + chunk * 8, true);
      }
    }
    copy_commit();
  };
  fetch(0);
  fetch(1);
  for (int tile = 0; tile < tiles; ++tile) {
    if (bug == Bug::kWaitOffByOne) {
      copy_wait<2>();
    } else if (bug == Bug::kPendingAtExit && tile == tiles - 1) {
      // the last tile is never waited for
    } else if (bug != Bug::kMissingWait) {
      copy_wait<1>();
    }
    if (bug != Bug::kMissingBarrier) block_barrier();
    if (bug != Bug::kMissingTrailBarrier) fetch(tile + 2);
    const SharedAddress stage = base + static_cast<uint32_t>(tile % kStages * kStageBytes);
    for (int step = 0; step < 2; ++step) {
      uint32_t fa[2][4], fb[4][2];
      for (int i = 0; i < 2; ++i) {
        const int row = warp / 2 * 32 + i * 16 + lane % 16;
        load_matrices<4>(fa[i], stage + tile_offset(row, step * 2 + lane / 16, swizzle));
      }
      for (int j = 0; j < 4; ++j) {
        const int row = warp % 2 * 32 + j * 8 + lane % 8;
        load_matrices<2>(fb[j], stage + kTile * 64 + tile_offset(row, step * 2 + lane / 8 % 2, swizzle));
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 4; ++j) mma<BFloat16>(accumulators[i][j], fa[i], fb[j]);
    }
    if (bug == Bug::kMissingTrailBarrier) fetch(tile + 3 - 1 + 1);  // into the stage that was just read
  }
  if (bug == Bug::kSharedOverflow) {
    reinterpret_cast<float*>(memory)[thread + kStages * kStageBytes / 4 - 127] = 0;
  }
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int e = 0; e < 4; ++e) {
        const int row = row0 + warp / 2 * 32 + i * 16 + lane / 4 + e / 2 * 8;
        const int column = column0 + warp % 2 * 32 + j * 8 + lane % 4 * 2 + e % 2;
        const int64_t shift = bug == Bug::kStoreOverflow ? 1 : 0;
        c[static_cast<int64_t>(row) * n + column + shift] = accumulators[i][j][e];
      }
    }
  }
}

void gemm(const void* a, const void* b, float* c, int m, int n, int k, Bug bug) {
  launch(gemm_kernel, dim3(static_cast<unsigned>(m / kTile), static_cast<unsigned>(n / kTile)), 128,
         kStages * kStageBytes, static_cast<const BFloat16*>(a), static_cast<const BFloat16*>(b), c, n, k,
         bug);
}

__global__ void transpose_kernel(const uint32_t* in, uint32_t* out, Bug bug) {
  SYMCONV_DYNAMIC_SHARED(memory);
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  uint32_t* tile = reinterpret_cast<uint32_t*>(memory) + warp * 32 * 33;
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * 2 + warp) * 1024;
  for (int row = 0; row < 32; ++row) tile[row * 33 + lane] = in[at + row * 32 + lane];
  if (bug != Bug::kMissingWarpBarrier) warp_barrier();
  for (int row = 0; row < 32; ++row) out[at + row * 32 + lane] = tile[lane * 33 + row];
}

void transpose(const uint32_t* in, uint32_t* out, int count, Bug bug) {
  launch(transpose_kernel, static_cast<unsigned>(count / 2), 64, 2 * 32 * 33 * 4, in, out, bug);
}

__global__ void sum_kernel(const float* in, float* out, int n, Bug bug) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  float value = i < n ? in[i] : 0.0f;
  for (int m = 16; m > 0; m /= 2) value += shuffle_xor(value, m);
  if (threadIdx.x % 32 == 0) {
    if (bug == Bug::kBlockRace)
      *out += value;
    else
      __atomic_fetch_add(reinterpret_cast<int*>(out), static_cast<int>(value), __ATOMIC_RELAXED);
  }
}

void sum(const float* in, float* out, int n, Bug bug) {
  launch(sum_kernel, static_cast<unsigned>((n + 63) / 64), 64, 0, in, out, n, bug);
}

__global__ void diverge_kernel(float* out, Bug bug) {
  const int thread = static_cast<int>(threadIdx.x);
  float value = static_cast<float>(thread);
  if (bug == Bug::kDivergentBarrier) {
    if (thread < 32) block_barrier();
  } else if (bug == Bug::kPartialWarp) {
    if (thread % 32 < 16) value = shuffle_xor(value, 1);
  } else {
    block_barrier();
    value = shuffle_xor(value, 1);
  }
  out[thread] = value;
}

void diverge(float* out, Bug bug) { launch(diverge_kernel, 1, 64, 0, out, bug); }

template <typename T>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, float* c) {
  const int lane = lane_id();
  uint32_t fa[4], fb[2];
  float fc[4];
  for (int i = 0; i < 4; ++i) fa[i] = a[lane * 4 + i], fc[i] = c[lane * 4 + i];
  for (int i = 0; i < 2; ++i) fb[i] = b[lane * 2 + i];
  mma<T>(fc, fa, fb);
  for (int i = 0; i < 4; ++i) c[lane * 4 + i] = fc[i];
}

void mma_once(const std::string& type, const uint32_t* a, const uint32_t* b, float* c) {
  if (type == "float16") return launch(mma_kernel<Float16>, 1, 32, 0, a, b, c);
  if (type == "bfloat16") return launch(mma_kernel<BFloat16>, 1, 32, 0, a, b, c);
  if (type == "tf32") return launch(mma_kernel<TensorFloat32>, 1, 32, 0, a, b, c);
  throw std::runtime_error("mma_once: unknown type " + type);
}

template <int Matrices>
__global__ void load_matrices_kernel(const uint16_t* in, int elements, const uint32_t* rows, bool transposed,
                                     uint32_t* result) {
  SYMCONV_DYNAMIC_SHARED(memory);
  const int lane = lane_id();
  for (int i = lane; i < elements; i += 32) reinterpret_cast<uint16_t*>(memory)[i] = in[i];
  warp_barrier();
  uint32_t r[Matrices];
  if (transposed)
    load_matrices_transposed<Matrices>(r, shared_address(memory) + rows[lane]);
  else
    load_matrices<Matrices>(r, shared_address(memory) + rows[lane]);
  for (int i = 0; i < Matrices; ++i) result[lane * Matrices + i] = r[i];
}

void load_matrices_once(const uint16_t* shared, int elements, const uint32_t* rows, int matrices,
                        bool transposed, uint32_t* result) {
  auto kernel = matrices == 4   ? load_matrices_kernel<4>
                : matrices == 2 ? load_matrices_kernel<2>
                                : load_matrices_kernel<1>;
  launch(kernel, 1, 32, static_cast<size_t>(elements) * 2, shared, elements, rows, transposed, result);
}

__global__ void touch_kernel(const uint32_t* addresses, int bytes) {
  SYMCONV_DYNAMIC_SHARED(memory);
  const SharedAddress at = shared_address(memory) + addresses[lane_id()];
  if (bytes == 16) store_shared(at, Word4{});
  if (bytes == 8) store_shared(at, Word2{});
  if (bytes == 4) store_shared(at, uint32_t{0});
}

void touch_shared(const uint32_t* addresses, int bytes, int shared_bytes) {
  launch(touch_kernel, 1, 32, static_cast<size_t>(shared_bytes), addresses, bytes);
}

__global__ void convert_kernel(const float* in, uint32_t* out, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += 32) {
    out[i * 4] = from_float<Float16>(in[i]).u;
    out[i * 4 + 1] = from_float<BFloat16>(in[i]).u;
    out[i * 4 + 2] = to_tf32(in[i]);
    const uint32_t x = pack2<Float16>(in[i], -in[i]);
    out[i * 4 + 3] = fma2<Float16>(x, pack2<Float16>(0.5f, 0.5f), x);
  }
}

void convert(const float* in, uint32_t* out, int n) { launch(convert_kernel, 1, 32, 0, in, out, n); }

__global__ void empty_kernel() {}
__global__ void empty_opt_in_kernel() {}

std::string try_launch(dim3 grid, dim3 block, size_t shared_bytes, bool opt_in) {
  cudaLaunchConfig_t config;
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  auto kernel = opt_in ? empty_opt_in_kernel : empty_kernel;
  if (opt_in) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace symconv::probes
