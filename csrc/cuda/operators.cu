// Which kernel an operator runs, and its way there: packing where the source needs it, then the kernel.
#include "operators.h"
#include "plain.h"
#include "tied_result.h"

namespace symconv::cuda {
namespace {

SourceShape source_of(const Convolution& c) {
  return {c.shape.batch,
          c.shape.b_channels,
          c.shape.groups,
          {c.shape.input[0], c.shape.input[1], c.shape.input[2]}};
}

int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }

Kernel kernel_for(const Convolution& c, DType dtype, bool allow_tf32) {
  return tied_result::takes(c, dtype, allow_tf32) ? Kernel::kTensorCore : Kernel::kPlain;
}

size_t convolution_workspace(const Convolution& c, const Tensor& source) {
  const SourceShape shape = source_of(c);
  const int64_t copy = is_packed(shape, source) ? 0 : aligned(packed_size(shape, source.dtype));
  return static_cast<size_t>(copy + tied_result::workspace_size(c, source.dtype));
}

void convolve(const Problem& problem, const Convolution& c, const Tensor& source, const Tensor& bias,
              const Tensor& result, const Context& context) {
  const SourceShape shape = source_of(c);
  char* memory = static_cast<char*>(context.workspace);
  SourceView view;
  if (is_packed(shape, source)) {
    view = view_packed(shape, source);
  } else {
    view = pack(problem, shape, source, memory, context.stream);
    memory += aligned(packed_size(shape, source.dtype));
  }
  tied_result::run(c, source.dtype, view, bias, result, memory, context.stream);
}

// The shape of a convolution does not depend on the weight's strides.
Convolution shape_of(Operator op, const Problem& problem) { return convolution_of(op, problem, Tensor{}, 1); }

}  // namespace

Kernel kernel_for(Operator op, const Problem& problem, DType dtype, bool allow_tf32) {
  if (!is_convolution(op, problem)) return Kernel::kPlain;
  return kernel_for(shape_of(op, problem), dtype, allow_tf32);
}

size_t workspace_size(Operator op, const Problem& problem, const Tensor& first, const Tensor&,
                      bool allow_tf32) {
  if (kernel_for(op, problem, first.dtype, allow_tf32) == Kernel::kPlain) return 0;
  return convolution_workspace(shape_of(op, problem), first);
}

void fprop(const Problem& problem, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Context& context) {
  if (kernel_for(Operator::kFprop, problem, input.dtype, context.allow_tf32) == Kernel::kPlain) {
    return plain::fprop(problem, input, weight, bias, output, context.stream);
  }
  const Convolution c = convolution_of(Operator::kFprop, problem, weight, element_size(weight.dtype));
  convolve(problem, c, input, bias, output, context);
}

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Context& context) {
  if (kernel_for(Operator::kDgrad, problem, grad_output.dtype, context.allow_tf32) == Kernel::kPlain) {
    return plain::dgrad(problem, grad_output, weight, bias, grad_input, context.stream);
  }
  const Convolution c = convolution_of(Operator::kDgrad, problem, weight, element_size(weight.dtype));
  convolve(problem, c, grad_output, bias, grad_input, context);
}

void wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Context& context) {
  plain::wgrad(problem, grad_output, input, grad_weight, context.stream);
}

}  // namespace symconv::cuda
