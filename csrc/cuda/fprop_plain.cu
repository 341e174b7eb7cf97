// Instantiates and launches the plain fprop.
#include "launch.h"
#include "plain.h"
#include "plain_kernels.cuh"

namespace symconv::cuda::plain {

void fprop(const Problem& problem, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, cudaStream_t stream) {
  dispatch(output.dtype, [&](auto element) {
    using T = decltype(element);
    LaunchShape shape;
    shape.threads = kPlainThreads;
    shape.blocks[0] = divide_up(problem.batch * problem.output_points() * problem.a_channels, kPlainThreads);
    launch("fprop_plain", problem, fprop_plain_kernel<T>, shape, stream, PlainProblem(problem),
           View<const T>(input), View<const T>(weight), View<const T>(bias), View<T>(output));
  });
}

}  // namespace symconv::cuda::plain
