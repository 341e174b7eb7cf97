// The two launches of a block of orbits with a tied result (folding its weights, then the convolution), one
// dtype a file.
#pragma once

#include "convolution.h"
#include "launch.h"
#include "tied_result_kernel.cuh"

namespace symconv::cuda::tied_result {

using Launch = void(const Convolution&, const LaunchShape& fold_shape, const FoldedWeightsShape&,
                    Word4* folded, int axes, bool shared_rows, const LaunchShape&, const TiedResultArguments&,
                    cudaStream_t);
Launch launch_float16, launch_bfloat16, launch_tf32;

template <typename T>
void launch_block(const Convolution& c, const LaunchShape& fold_shape, const FoldedWeightsShape& fold,
                  Word4* folded, int axes, bool shared_rows, const LaunchShape& shape,
                  const TiedResultArguments& arguments, cudaStream_t stream) {
  const char* name = c.op == Operator::kFprop ? "fprop" : "dgrad";
  launch(name, c.shape, fold_weights_kernel<T>, fold_shape, stream, fold, folded);
  auto kernel = axes == 0     ? tied_result_kernel<T, 0, false>
                : axes == 1   ? tied_result_kernel<T, 1, false>
                : axes == 3   ? tied_result_kernel<T, 3, false>
                : shared_rows ? tied_result_kernel<T, 2, true>
                              : tied_result_kernel<T, 2, false>;
  launch(name, c.shape, kernel, shape, stream, arguments);
}

}  // namespace symconv::cuda::tied_result
