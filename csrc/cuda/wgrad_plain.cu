// Instantiates and launches the plain wgrad.
#include "launch.h"
#include "plain.h"
#include "plain_kernels.cuh"

namespace symconv::cuda::plain {

void wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           cudaStream_t stream) {
  dispatch(grad_weight.dtype, [&](auto element) {
    using T = decltype(element);
    LaunchShape shape;
    shape.threads = kPlainThreads;
    shape.blocks[0] =
        divide_up(problem.weight_rows() * problem.weight_columns() * problem.taps(), kPlainThreads);
    launch("wgrad_plain", problem, wgrad_plain_kernel<T>, shape, stream, PlainProblem(problem),
           View<const T>(grad_output), View<const T>(input), View<T>(grad_weight));
  });
}

}  // namespace symconv::cuda::plain
