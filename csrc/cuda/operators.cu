// Which kernel an operator runs, and its way there: packing where the source needs it, then the kernel.
#include "operators.h"
#include "plain.h"
#include "tied_result.h"
#include "tied_source.h"
#include "wgrad.h"

namespace symconv::cuda {
namespace {

SourceShape source_of(const Convolution& c) {
  return {c.shape.batch,
          c.shape.b_channels,
          c.shape.groups,
          {c.shape.input[0], c.shape.input[1], c.shape.input[2]}};
}

Kernel kernel_for(const Convolution& c, DType dtype, bool allow_tf32) {
  const bool takes = c.op == Operator::kWgrad ? wgrad_tiles::takes(c, dtype, allow_tf32)
                     : c.shape.transposed     ? tied_source::takes(c, dtype, allow_tf32)
                                              : tied_result::takes(c, dtype, allow_tf32);
  return takes ? Kernel::kTensorCore : Kernel::kPlain;
}

// Bytes at the start of the workspace for a packed copy of the source.
int64_t copy_size(const Convolution& c, const Tensor& source) {
  const SourceShape shape = source_of(c);
  return copy_size(shape, whole_run(shape), source);
}

// The source as the kernels read it, copied to the start of the workspace if need be.
SourceView packed(const Problem& problem, const Convolution& c, const Tensor& source,
                  const Context& context) {
  const SourceShape shape = source_of(c);
  ChannelRuns runs = whole_run(shape);
  return packed(problem, shape, runs, source, context.workspace, context.stream);
}

void convolve(const Problem& problem, const Convolution& c, const Tensor& source, const Tensor& bias,
              const Tensor& result, const Context& context) {
  if (c.shape.transposed) {
    return tied_source::run(c, source.dtype, source, bias, result, context.workspace, context.stream);
  }
  char* rest = static_cast<char*>(context.workspace) + copy_size(c, source);
  tied_result::run(c, source.dtype, packed(problem, c, source, context), bias, result, rest, context.stream);
}

// The shape of a convolution does not depend on the weight's strides.
Convolution shape_of(Operator op, const Problem& problem) { return convolution_of(op, problem, Tensor{}, 1); }

}  // namespace

Kernel kernel_for(Operator op, const Problem& problem, DType dtype, bool allow_tf32) {
  if (!is_convolution(op, problem)) return Kernel::kPlain;
  return kernel_for(shape_of(op, problem), dtype, allow_tf32);
}

size_t workspace_size(Operator op, const Problem& problem, const Tensor& first, const Tensor& second,
                      bool allow_tf32) {
  if (kernel_for(op, problem, first.dtype, allow_tf32) == Kernel::kPlain) return 0;
  const Convolution c = shape_of(op, problem);
  if (op == Operator::kWgrad) {
    const bool exchanged = is_exchanged(op, problem);
    const Tensor &source = exchanged ? first : second, &result = exchanged ? second : first;
    return static_cast<size_t>(copy_size(c, source) + wgrad_tiles::workspace_size(c, result));
  }
  if (c.shape.transposed) return static_cast<size_t>(tied_source::workspace_size(c, first.dtype));
  return static_cast<size_t>(copy_size(c, first) + tied_result::workspace_size(c, first.dtype));
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
  if (kernel_for(Operator::kWgrad, problem, input.dtype, context.allow_tf32) == Kernel::kPlain) {
    return plain::wgrad(problem, grad_output, input, grad_weight, context.stream);
  }
  const Convolution c =
      convolution_of(Operator::kWgrad, problem, grad_weight, element_size(grad_weight.dtype));
  const bool exchanged = is_exchanged(Operator::kWgrad, problem);
  const Tensor &source = exchanged ? grad_output : input, &result = exchanged ? input : grad_output;
  char* rest = static_cast<char*>(context.workspace) + copy_size(c, source);
  wgrad_tiles::run(c, packed(problem, c, source, context), result, rest, context.stream);
}

}  // namespace symconv::cuda
