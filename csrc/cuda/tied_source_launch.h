// The launches of a convolution with a tied source (folding a block's weights; the convolution), one dtype a
// file.
#pragma once

#include "launch.h"
#include "tied_source_kernel.cuh"

namespace symconv::cuda::tied_source {

struct Launches {
  void (*fold)(const char* name, const Problem&, const LaunchShape&, const FoldedWeightsShape&, Word4* folded,
               cudaStream_t);
  void (*convolve)(const char* name, const Problem&, const LaunchShape&, const TiedSourceArguments&,
                   cudaStream_t);
};
extern const Launches kFloat16, kBFloat16, kTensorFloat32;

template <typename T>
constexpr Launches launches() {
  return {[](const char* name, const Problem& problem, const LaunchShape& shape,
             const FoldedWeightsShape& fold, Word4* folded, cudaStream_t stream) {
            launch(name, problem, fold_weights_kernel<T>, shape, stream, fold, folded);
          },
          [](const char* name, const Problem& problem, const LaunchShape& shape,
             const TiedSourceArguments& arguments, cudaStream_t stream) {
            launch(name, problem, tied_source_kernel<T>, shape, stream, arguments);
          }};
}

}  // namespace symconv::cuda::tied_source
