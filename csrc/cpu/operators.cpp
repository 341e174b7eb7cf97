// Which loops an operator runs.
#include "operators.h"

#include "convolve.h"
#include "dgrad.h"
#include "kernels.h"
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
  convolve(Convolution::fprop(problem), input, weight, nullptr, bias, output, threads);
}

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Threads& threads) {
  const std::vector<Convolution> pieces = Convolution::dgrad(problem);
  if (use_reference() || pieces.empty()) {
    return reference::dgrad(problem, grad_output, weight, bias, grad_input, threads);
  }
  run_pieces(problem, pieces, bias, grad_input, threads, [&](const Convolution& piece) {
    convolve(piece, grad_output, weight, nullptr, bias, grad_input, threads);
  });
}

void wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads& threads) {
  if (use_reference()) return reference::wgrad(problem, grad_output, input, grad_weight, threads);
  convolve_wgrad(problem, grad_output, input, grad_weight, threads);
}

}  // namespace symconv::cpu
