// Which loops an operator runs.
#include "operators.h"

#include "dgrad.h"
#include "kernels.h"
#include "plans.h"
#include "reference.h"
#include "wgrad.h"

namespace symconv::cpu {
namespace {

// SYMCONV_CPU_CAPABILITY=reference: the slow twin for everything.
bool use_reference() {
  static const bool use = capability() == std::string(kReference);
  return use;
}

}  // namespace

void fprop(const Problem& problem, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Threads& threads) {
  if (use_reference()) return reference::fprop(problem, input, weight, bias, output, threads);
  for (const auto& plan : *plans_of(problem, Pass::kFprop, input.dtype, threads.count, false)) {
    plan->run(input, weight, nullptr, bias, output, threads);
  }
}

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Threads& threads) {
  if (use_reference()) return reference::dgrad(problem, grad_output, weight, bias, grad_input, threads);
  const auto& plans = plans_of(problem, Pass::kDgrad, grad_output.dtype, threads.count, false);
  if (!plans) return reference::dgrad(problem, grad_output, weight, bias, grad_input, threads);
  run_pieces(problem, *plans, bias, grad_input, threads, [&](const ConvolutionPlan& piece) {
    piece.run(grad_output, weight, nullptr, bias, grad_input, threads);
  });
}

void wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads& threads) {
  if (use_reference()) return reference::wgrad(problem, grad_output, input, grad_weight, threads);
  convolve_wgrad(problem, grad_output, input, grad_weight, threads);
}

}  // namespace symconv::cpu
