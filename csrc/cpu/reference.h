// The slow twin of the CPU operators: the folded algebra in its plainest loops, in double precision
// throughout.
//
// It has the contract of operators.h, takes every problem, and is what the fast kernels are tested against.
#pragma once

#include "operators.h"

namespace symconv::cpu::reference {

void fprop(const Problem&, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Threads&);
void dgrad(const Problem&, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Threads&);
void wgrad(const Problem&, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads&);

}  // namespace symconv::cpu::reference
