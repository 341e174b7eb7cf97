// Instantiates and launches the plain dgrad.
#include "launch.h"
#include "plain.h"
#include "plain_kernels.cuh"

namespace symconv::cuda::plain {

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, cudaStream_t stream) {
  dispatch(grad_input.dtype, [&](auto element) {
    using T = decltype(element);
    LaunchShape shape;
    shape.threads = kPlainThreads;
    shape.blocks[0] = divide_up(problem.batch * problem.input_points() * problem.b_channels, kPlainThreads);
    launch("dgrad_plain", problem, dgrad_plain_kernel<T>, shape, stream, PlainProblem(problem),
           View<const T>(grad_output), View<const T>(weight), View<const T>(bias), View<T>(grad_input));
  });
}

}  // namespace symconv::cuda::plain
