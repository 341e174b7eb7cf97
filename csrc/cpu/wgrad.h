// The loops of wgrad.
#pragma once

#include "operators.h"

namespace symconv::cpu {

// grad_output (N, A, *output), input (N, B, *input) -> grad_weight, in the reduced weight's shape.
void convolve_wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                    const Tensor& grad_weight, const Threads& threads);

}  // namespace symconv::cpu
