// The launches of a weight gradient (a block's products; their reduction), one dtype a file.
#pragma once

#include "launch.h"
#include "wgrad_kernel.cuh"
#include "wgrad_reduce_kernel.cuh"

namespace symconv::cuda::wgrad_tiles {

struct Launches {
  void (*multiply)(const Problem&, int axes, bool rolling, const LaunchShape&, const WgradArguments&,
                   cudaStream_t);
  void (*reduce)(const Problem&, const LaunchShape&, const WgradReduction&, cudaStream_t);
};
extern const Launches kFloat16, kBFloat16, kTensorFloat32;

template <typename T, bool Rolling>
auto wgrad_kernel_for(int axes) {
  return axes == 0   ? wgrad_kernel<T, 0, Rolling>
         : axes == 1 ? wgrad_kernel<T, 1, Rolling>
         : axes == 2 ? wgrad_kernel<T, 2, Rolling>
                     : wgrad_kernel<T, 3, Rolling>;
}

template <typename T>
constexpr Launches launches() {
  return {[](const Problem& problem, int axes, bool rolling, const LaunchShape& shape,
             const WgradArguments& arguments, cudaStream_t stream) {
            auto kernel = rolling ? wgrad_kernel_for<T, true>(axes) : wgrad_kernel_for<T, false>(axes);
            launch("wgrad", problem, kernel, shape, stream, arguments);
          },
          [](const Problem& problem, const LaunchShape& shape, const WgradReduction& reduction,
             cudaStream_t stream) {
            launch("wgrad", problem, wgrad_reduce_kernel<T>, shape, stream, reduction);
          }};
}

}  // namespace symconv::cuda::wgrad_tiles
