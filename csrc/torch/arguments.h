// The checks on an operator's arguments, and the way from them to a Problem.
//
// Every way of miscalling an operator ends here, in an error that names the argument, what was expected, what
// came and what to do; behind this line the kernels trust what they get.
#pragma once

#include "../common/problem.h"
#include "tensor.h"

namespace symconv::binding {

// The arguments that all operators end with, as they come from the schema: one number per spatial dimension,
// and orbits per block.
struct Geometry {
  const Ints& stride;
  const Ints& padding;
  const Ints& dilation;
  int64_t groups;
  const Ints& orbits;
  bool transposed;
};

// The same in one list, and allow_tf32 after them. The operators that are called most take it: each argument
// of a call from Python costs microseconds where the caches are cold.
struct FlatGeometry {
  explicit FlatGeometry(const Ints& numbers);

  Geometry apart() const { return {stride, padding, dilation, groups, orbits, transposed}; }

  Ints stride, padding, dilation;
  int64_t groups;
  Ints orbits;
  bool transposed, allow_tf32;
};

// A tensor and the name that the schema gives it.
struct Argument {
  const char* name;
  const Tensor& tensor;
};

// Size of the reduced weight, and the argument that it comes from.
struct WeightSize {
  const char* name;
  Ints size;
};

// Both are strided tensors of one floating dtype that the kernels know, on one device, with data.
void check_tensors(const Argument& first, const Argument& second);

// The same of one tensor.
void check_tensor(const Argument& argument);

// `packed` holds numbers of the type that the kernels compute in for `like`, densely, on its device.
void check_packed(const Tensor& packed, const Argument& like);

// The bias, if there is one, has `channels` values of the same dtype and device as `like`.
void check_bias(const std::optional<Tensor>& bias, int64_t channels, const Argument& like);

// input (N, B, *input) and the reduced weight give output (N, A, *output), each output size being
// floor((input + 2 padding - dilation (kernel - 1) - 1) / stride) + 1.
Problem fprop_problem(const Tensor& input, const WeightSize& weight, const Geometry& geometry);

// grad_output (N, A, *output) and the reduced weight give a result of `input_size` (N, B, *input). fprop of
// an input of that size reaches every point of grad_output and stops before max(stride, dilation) more points
// are left over: the sizes that output_padding of a transposed layer can ask for. Where dilation > stride,
// fprop itself would give more points than grad_output has; those that are missing count as zeros.
Problem dgrad_problem(const Tensor& grad_output, const WeightSize& weight, const Ints& input_size,
                      const Geometry& geometry);

// grad_output (N, A, *output) and input (N, B, *input), sizes related as in dgrad, give a result of
// `weight_size`.
Problem wgrad_problem(const Tensor& grad_output, const Tensor& input, const Ints& weight_size,
                      const Geometry& geometry);

// What a pack is made for: weight and geometry; the problem's batch and spatial sizes say nothing. Where a
// stride is without effect for the sizes of a call, the problem of that call has another one: `keep_stride`
// puts back what a pack was made with.
Problem pack_problem(const Tensor& weight, const Geometry& geometry);
void keep_stride(Problem& problem, const Geometry& geometry);

// The reduced weight alone; the problem's batch and spatial sizes say nothing.
Problem mirror_problem(const Tensor& weight, int64_t groups, const Ints& orbits, bool transposed);

}  // namespace symconv::binding
