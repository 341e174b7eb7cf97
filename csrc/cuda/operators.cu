// Which kernel an operator runs.
#include "operators.h"
#include "plain.h"

namespace symconv::cuda {

Kernel kernel_for(Operator, const Problem&, DType, bool) { return Kernel::kPlain; }

size_t workspace_size(Operator, const Problem&, DType, bool) { return 0; }

void fprop(const Problem& problem, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Context& context) {
  plain::fprop(problem, input, weight, bias, output, context.stream);
}

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Context& context) {
  plain::dgrad(problem, grad_output, weight, bias, grad_input, context.stream);
}

void wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Context& context) {
  plain::wgrad(problem, grad_output, input, grad_weight, context.stream);
}

}  // namespace symconv::cuda
