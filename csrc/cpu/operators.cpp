// Which kernels an operator runs.
#include "operators.h"

#include "reference.h"

namespace symconv::cpu {

void fprop(const Problem& problem, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Threads& threads) {
  reference::fprop(problem, input, weight, bias, output, threads);
}

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Threads& threads) {
  reference::dgrad(problem, grad_output, weight, bias, grad_input, threads);
}

void wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads& threads) {
  reference::wgrad(problem, grad_output, input, grad_weight, threads);
}

}  // namespace symconv::cpu
