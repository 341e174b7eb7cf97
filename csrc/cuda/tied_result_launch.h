// The launches of a block of orbits with a tied result (folding its weights; the convolution, in boxes of
// points or in strips), one dtype a file.
#pragma once

#include "launch.h"
#include "tied_result_kernel.cuh"
#include "tied_result_strips_kernel.cuh"

namespace symconv::cuda::tied_result {

template <typename Arguments>
using Launch = void (*)(const char* name, const Problem&, const LaunchShape&, const Arguments&, cudaStream_t);

struct Launches {
  void (*fold)(const char* name, const Problem&, const LaunchShape&, const FoldedWeightsShape&, Word4* folded,
               cudaStream_t);
  Launch<TiedResultArguments> boxes[4];         // by the axes of the orbits
  Launch<TiedResultStripsArguments> strips[2];  // by run, from 7
};
extern const Launches kFloat16, kBFloat16, kTensorFloat32;

template <typename T, int Axes>
void launch_boxes(const char* name, const Problem& problem, const LaunchShape& shape,
                  const TiedResultArguments& arguments, cudaStream_t stream) {
  launch(name, problem, tied_result_kernel<T, Axes>, shape, stream, arguments);
}

template <typename T, int Run>
void launch_strips(const char* name, const Problem& problem, const LaunchShape& shape,
                   const TiedResultStripsArguments& arguments, cudaStream_t stream) {
  launch(name, problem, tied_result_strips_kernel<T, Run>, shape, stream, arguments);
}

template <typename T>
constexpr Launches launches() {
  return {[](const char* name, const Problem& problem, const LaunchShape& shape,
             const FoldedWeightsShape& fold, Word4* folded, cudaStream_t stream) {
            launch(name, problem, fold_weights_kernel<T>, shape, stream, fold, folded);
          },
          {launch_boxes<T, 0>, launch_boxes<T, 1>, launch_boxes<T, 2>, launch_boxes<T, 3>},
          {launch_strips<T, 7>, launch_strips<T, 8>}};
}

}  // namespace symconv::cuda::tied_result
