// The plain twins of the CUDA operators: the contract of operators.h, every problem, no scratch memory.
#pragma once

#include "operators.h"

namespace symconv::cuda::plain {

void fprop(const Problem&, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, cudaStream_t);
void dgrad(const Problem&, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, cudaStream_t);
void wgrad(const Problem&, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           cudaStream_t);

}  // namespace symconv::cuda::plain
