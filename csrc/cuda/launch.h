// The launch layer: every kernel of the library is launched here, and every launch is checked here.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "../common/problem.h"

namespace symconv::cuda {

// How many blocks, in which arrangement, of how many threads (a multiple of 32), with how many bytes of
// dynamic shared memory.
struct LaunchShape {
  int64_t blocks[3] = {1, 1, 1};
  int threads = 32;
  int64_t shared_bytes = 0;
};

constexpr int64_t kMaxBlocks[3] = {2147483647, 65535, 65535};

inline int64_t divide_up(int64_t n, int64_t d) { return (n + d - 1) / d; }

// Of the current device.
int64_t multiprocessors();

// "what: reason (shape of the launch, shape of the problem)"
std::string launch_error(const char* what, const std::string& reason, const Problem& problem,
                         const LaunchShape& shape);

// Launches kernel(arguments...), opting in to more than 48 KiB of shared memory where it is asked for. An
// empty grid is nothing to do.
template <typename... Parameters, typename... Arguments>
void launch(const char* what, const Problem& problem, void (*kernel)(Parameters...), const LaunchShape& shape,
            cudaStream_t stream, Arguments&&... arguments) {
  for (int d = 0; d < 3; ++d) {
    if (shape.blocks[d] == 0) return;
    if (shape.blocks[d] > kMaxBlocks[d]) {
      throw std::runtime_error(
          launch_error(what, "the problem needs more blocks than a grid can have", problem, shape));
    }
  }
  cudaError_t error = cudaSuccess;
  if (shape.shared_bytes > 48 * 1024) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.shared_bytes));
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(shape.blocks[0]), static_cast<unsigned>(shape.blocks[1]),
                          static_cast<unsigned>(shape.blocks[2]));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
    config.stream = stream;
    error = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  }
  if (error != cudaSuccess) {
    cudaGetLastError();  // so that the next launch does not report this one
    throw std::runtime_error(launch_error(what, cudaGetErrorString(error), problem, shape));
  }
}

}  // namespace symconv::cuda
