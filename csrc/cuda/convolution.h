// What a tensor-core kernel computes: a convolution from a source to a result, with filters tied on one side.
//
// fprop is one as it stands. At stride 1 dgrad is another: of grad_output, with the two sides exchanged,
// every tap mirrored and the padding that restores the size; at a larger stride it is one such convolution
// for every residue of the input point modulo the stride (common/residues.h). So two kernels serve both
// operators of both kinds of layer: one for a tied result, one for a tied source. wgrad is the weight
// gradient of either reading; the one whose result is tied is taken.
#pragma once

#include <cstdint>
#include <vector>

#include "../common/problem.h"
#include "operators.h"

namespace symconv::cuda {

// The reduced weight as the convolution reads it. All strides in elements; those of the taps may be negative.
struct WeightView {
  void* data;      // written for a gradient
  int64_t group;   // from one group to the next
  int64_t result;  // along the result's channels (or orbits)
  int64_t source;  // along the source's channels (or orbits)
  int64_t tap[kAxes];
};

struct Convolution {
  // Source is `b`/`input`, result is `a`/`output`; `transposed` says that the source is tied. The padding may
  // be negative.
  Problem shape;
  WeightView weight;
  Operator op;  // for error texts
  // The operator's points that the result's are: every step-th from the first on.
  int64_t first[kAxes] = {0, 0, 0}, step[kAxes] = {1, 1, 1};

  int64_t source_channels() const { return shape.b_channels / shape.groups; }  // of a group
  int64_t result_channels() const { return shape.a_channels / shape.groups; }
};

// Whether the operator reads the problem with its sides exchanged.
inline bool is_exchanged(Operator op, const Problem& p) {
  return op == Operator::kDgrad || (op == Operator::kWgrad && p.transposed);
}

// Whether the operator on this problem is such a convolution, or the weight gradient of one.
inline bool is_convolution(Operator op, const Problem& p) {
  return !is_exchanged(op, p) || (p.stride[0] == 1 && p.stride[1] == 1 && p.stride[2] == 1);
}

// fprop, or dgrad, as convolutions that make up its result. Empty where there is no such form: where a folded
// axis has mirrored taps that reach different residues, or where there are too many of them to be launched
// one by one. Those of residues that no tap reaches have no channels to sum over.
constexpr int64_t kMostConvolutions = 64;
std::vector<Convolution> convolutions_of(Operator op, const Problem& p, const Tensor& weight,
                                         int64_t element_size);

// `weight` is the reduced weight or its gradient.
inline Convolution convolution_of(Operator op, const Problem& p, const Tensor& weight, int64_t element_size) {
  const bool exchanged = is_exchanged(op, p);
  Convolution c{p, {}, op};
  c.weight.group = p.weight_rows() / p.groups * weight.strides[0];
  c.weight.result = weight.strides[exchanged ? 1 : 0];
  c.weight.source = weight.strides[exchanged ? 0 : 1];
  int64_t first = 0;
  for (int d = 0; d < kAxes; ++d) {
    c.weight.tap[d] = weight.strides[2 + d];
    if (!exchanged) continue;
    first += (p.kernel[d] - 1) * weight.strides[2 + d];
    c.weight.tap[d] = -weight.strides[2 + d];
    c.shape.input[d] = p.output[d];
    c.shape.output[d] = p.input[d];
    c.shape.padding[d] = p.dilation[d] * (p.kernel[d] - 1) - p.padding[d];
  }
  if (exchanged) {
    c.shape.a_channels = p.b_channels;
    c.shape.b_channels = p.a_channels;
    c.shape.transposed = !p.transposed;
  }
  c.weight.data = static_cast<char*>(weight.data) + first * element_size;
  return c;
}

}  // namespace symconv::cuda
