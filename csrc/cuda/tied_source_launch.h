// The launches of a convolution with a tied source (folding a block's weights; the convolution, in boxes of
// points or in strips), one dtype a file.
#pragma once

#include "launch.h"
#include "tied_source_kernel.cuh"
#include "tied_source_strips_kernel.cuh"

namespace symconv::cuda::tied_source {

template <typename Arguments>
using Launch = void (*)(const char* name, const Problem&, const LaunchShape&, const Arguments&, cudaStream_t);

struct Launches {
  void (*fold)(const char* name, const Problem&, const LaunchShape&, const FoldedWeightsShape&, Word4* folded,
               cudaStream_t);
  Launch<TiedSourceArguments> boxes;
  Launch<TiedSourceStripsArguments> strips[2];  // by run, from 7
};
extern const Launches kFloat16, kBFloat16, kTensorFloat32;

template <typename T, int Run>
void launch_strips(const char* name, const Problem& problem, const LaunchShape& shape,
                   const TiedSourceStripsArguments& arguments, cudaStream_t stream) {
  launch(name, problem, tied_source_strips_kernel<T, Run>, shape, stream, arguments);
}

template <typename T>
constexpr Launches launches() {
  return {[](const char* name, const Problem& problem, const LaunchShape& shape,
             const FoldedWeightsShape& fold, Word4* folded, cudaStream_t stream) {
            launch(name, problem, fold_weights_kernel<T>, shape, stream, fold, folded);
          },
          [](const char* name, const Problem& problem, const LaunchShape& shape,
             const TiedSourceArguments& arguments,
             cudaStream_t stream) { launch(name, problem, tied_source_kernel<T>, shape, stream, arguments); },
          {launch_strips<T, 7>, launch_strips<T, 8>}};
}

}  // namespace symconv::cuda::tied_source
