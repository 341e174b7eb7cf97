// Which kernel an operator runs, and its way there: what the source needs, then the kernels.
#include <algorithm>

#include "operators.h"
#include "plain.h"
#include "slots.h"
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

bool takes(const Convolution& c, DType dtype, bool allow_tf32) {
  return c.op == Operator::kWgrad ? wgrad_tiles::takes(c, dtype, allow_tf32)
         : c.shape.transposed     ? tied_source::takes(c, dtype, allow_tf32)
                                  : tied_result::takes(c, dtype, allow_tf32);
}

// Whether the kernels of fprop or dgrad cannot read a source that is not tied, whatever its alignment.
bool far_apart(const Convolution& c, const Tensor& source) {
  if (c.op == Operator::kWgrad) return false;
  const SourceView view{source.data,
                        {source.strides[0], source.strides[2], source.strides[3], source.strides[4]},
                        c.source_channels(),
                        static_cast<int>(c.source_channels())};
  return !tied_result::reads(c, source.dtype, view);
}

// Bytes at the start of the workspace for a packed copy of the source.
int64_t copy_size(const Convolution& c, const Tensor& source) {
  const SourceShape shape = source_of(c);
  return copy_size(shape, whole_run(shape), source, far_apart(c, source));
}

// The source as the kernels read it, copied to the start of the workspace if need be.
SourceView packed(const Problem& problem, const Convolution& c, const Tensor& source,
                  const Context& context) {
  const SourceShape shape = source_of(c);
  ChannelRuns runs = whole_run(shape);
  return packed(problem, shape, runs, source, context.workspace, context.stream, far_apart(c, source));
}

// The shape of a convolution does not depend on the weight's strides.
Convolution shape_of(Operator op, const Problem& problem) { return convolution_of(op, problem, Tensor{}, 1); }

// Bytes at the start of the workspace for what fprop or dgrad makes of its source: the planes of slots of a
// tied one, or a packed copy.
int64_t prepared_size(const Convolution& whole, const Tensor& source) {
  if (!whole.shape.transposed) return copy_size(whole, source);
  return (slots_size(ChannelMap(whole.shape), source_of(whole), source.dtype) + 15) / 16 * 16;
}

// The convolutions of fprop or dgrad one after the other, from one source.
void convolve(Operator op, const Problem& problem, const Tensor& source, const Tensor& weight,
              const Tensor& bias, const Tensor& result, const Context& context) {
  const Convolution whole = shape_of(op, problem);
  const SourceView view = whole.shape.transposed
                              ? make_slots(problem, ChannelMap(whole.shape), source_of(whole), source,
                                           context.workspace, context.stream)
                              : packed(problem, whole, source, context);
  char* rest = static_cast<char*>(context.workspace) + prepared_size(whole, source);
  for (const Convolution& c : convolutions_of(op, problem, weight, element_size(weight.dtype))) {
    Tensor part = result;
    int64_t first = 0;
    for (int d = 0; d < kAxes; ++d) {
      first += c.first[d] * result.strides[2 + d];
      part.strides[2 + d] *= c.step[d];
    }
    part.data = static_cast<char*>(result.data) + first * element_size(result.dtype);
    const auto run = c.shape.transposed ? tied_source::run : tied_result::run;
    run(c, source.dtype, view, bias, part, rest, context.stream);
  }
}

}  // namespace

Kernel kernel_for(Operator op, const Problem& problem, DType dtype, bool allow_tf32) {
  std::vector<Convolution> convolutions;
  if (op != Operator::kWgrad) {
    convolutions = convolutions_of(op, problem, Tensor{}, 1);
  } else if (is_convolution(op, problem)) {
    convolutions = {shape_of(op, problem)};
  }
  for (const Convolution& c : convolutions) {
    if (!takes(c, dtype, allow_tf32)) return Kernel::kPlain;
  }
  return convolutions.empty() ? Kernel::kPlain : Kernel::kTensorCore;
}

size_t workspace_size(Operator op, const Problem& problem, const Tensor& first, const Tensor& second,
                      bool allow_tf32) {
  if (kernel_for(op, problem, first.dtype, allow_tf32) == Kernel::kPlain) return 0;
  const Convolution whole = shape_of(op, problem);
  if (op == Operator::kWgrad) {
    const bool exchanged = is_exchanged(op, problem);
    const Tensor &source = exchanged ? first : second, &result = exchanged ? second : first;
    return static_cast<size_t>(copy_size(whole, source) + wgrad_tiles::workspace_size(whole, result));
  }
  int64_t weights = 0;  // of one convolution at a time
  for (const Convolution& c : convolutions_of(op, problem, Tensor{}, 1)) {
    weights = std::max(weights, c.shape.transposed ? tied_source::workspace_size(c, first.dtype)
                                                   : tied_result::workspace_size(c, first.dtype));
  }
  return static_cast<size_t>(prepared_size(whole, first) + weights);
}

void fprop(const Problem& problem, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Context& context) {
  if (kernel_for(Operator::kFprop, problem, input.dtype, context.allow_tf32) == Kernel::kPlain) {
    return plain::fprop(problem, input, weight, bias, output, context.stream);
  }
  convolve(Operator::kFprop, problem, input, weight, bias, output, context);
}

void dgrad(const Problem& problem, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Context& context) {
  if (kernel_for(Operator::kDgrad, problem, grad_output.dtype, context.allow_tf32) == Kernel::kPlain) {
    return plain::dgrad(problem, grad_output, weight, bias, grad_input, context.stream);
  }
  convolve(Operator::kDgrad, problem, grad_output, weight, bias, grad_input, context);
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
