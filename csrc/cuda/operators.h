// The CUDA operators as the torch binding (and any other caller) sees them: no torch, no globals, the stream
// passed in.
//
// Everything is asynchronous on `stream` of the current device. Nothing is allocated and the host never
// waits, so that calls can be captured in CUDA graphs; scratch memory is the caller's. A launch that fails
// throws std::runtime_error with the problem's shape.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "../common/problem.h"

namespace symconv::cuda {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16 };

// A tensor on loan in device memory: element strides of (batch or rows, channels or columns, z, v, h); any
// strides, zero ones too where the tensor is only read.
struct Tensor {
  void* data;
  DType dtype;
  int64_t strides[5];
};

enum class Operator { kFprop, kDgrad, kWgrad };

enum class Kernel {
  kPlain,       // one thread per number of the result, on the ordinary units; takes everything
  kTensorCore,  // folded implicit GEMM on tensor cores
};

// Which kernel an operator runs for a problem: a fact for dispatch rules and for `info`. `allow_tf32` as the
// operators take it.
Kernel kernel_for(Operator, const Problem&, DType, bool allow_tf32);

// Bytes of scratch memory, aligned to 16, that an operator needs for its two operands (as fprop, dgrad and
// wgrad take them; their data counts only for its alignment). The same for every call with such operands, so
// that a captured call can be replayed.
size_t workspace_size(Operator, const Problem&, const Tensor& first, const Tensor& second, bool allow_tf32);

// What an operator needs besides its tensors.
struct Context {
  cudaStream_t stream;
  void* workspace;  // of workspace_size() bytes; may be null when that is 0
  bool allow_tf32;  // float32 may be rounded to tf32 for the tensor cores
};

// Each operator computes all of its result: nothing is read from it. All tensors have one dtype; half types
// accumulate in float32. `weight` is the reduced weight (weight_rows, weight_columns, *kernel), `bias` has
// one value per channel of the result, or null data. The problem has been checked: sizes are consistent,
// groups divide orbits.

// input (N, B, *input), weight -> output (N, A, *output)
void fprop(const Problem&, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Context&);
// grad_output (N, A, *output), weight -> grad_input (N, B, *input)
void dgrad(const Problem&, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Context&);
// grad_output (N, A, *output), input (N, B, *input) -> grad_weight, in the reduced weight's shape
void wgrad(const Problem&, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Context&);

}  // namespace symconv::cuda
