// One problem as every operator, kernel and backend sees it: a convolution (A, B, kernel), as plain data.
//
// The convolution takes B channels on a grid of `input` points to A channels on a grid of `output` points:
//     out[n, a, y] = sum over b, t of  w[a, b, t] in[n, b, y * stride - padding + t * dilation]
// fprop computes `out`, dgrad its transpose (A channels to B channels), wgrad the gradient of w. Problems of
// rank 1 and 2 are problems of rank 3 with unit dimensions; spatial dimensions stand in the order z (depth),
// v (height), h (width).
//
// Filters are tied along A (a convolution layer) or along B (`transposed`: a transposed layer, whose forward
// is dgrad). Of the tied dimension the reduced weight has unique() entries, group-major, in block order
// within a group.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "symmetry.h"

namespace symconv {

struct Problem {
  int64_t batch;
  int64_t a_channels;  // dense channels of `output`
  int64_t b_channels;  // dense channels of `input`
  int64_t input[kAxes];
  int64_t output[kAxes];
  int64_t kernel[kAxes];
  int64_t stride[kAxes];
  int64_t padding[kAxes];
  int64_t dilation[kAxes];
  int64_t groups;
  int64_t orbits[kBlocks];  // orbits of each block over the whole layer; a multiple of `groups`
  bool transposed;          // false: A is tied; true: B is tied

  // Reduced filters of the whole layer.
  SYMCONV_HD int64_t unique() const {
    int64_t n = 0;
    for (int b = 0; b < kBlocks; ++b) n += orbits[b];
    return n;
  }
  // The size of the reduced weight's first two dimensions: (A, B/groups) with the tied one reduced.
  SYMCONV_HD int64_t weight_rows() const { return transposed ? a_channels : unique(); }
  SYMCONV_HD int64_t weight_columns() const { return (transposed ? unique() : b_channels) / groups; }
  SYMCONV_HD int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  SYMCONV_HD int64_t input_points() const { return input[0] * input[1] * input[2]; }
  SYMCONV_HD int64_t output_points() const { return output[0] * output[1] * output[2]; }

  // F: the axes along which anything is folded.
  SYMCONV_HD int folded_axes() const {
    int f = 0;
    for (int b = 0; b < kBlocks; ++b)
      if (orbits[b] > 0) f |= block_mask(b);
    return f;
  }

  bool operator==(const Problem& other) const {
    const auto equal = [](const auto& a, const auto& b) { return std::equal(std::begin(a), std::end(a), b); };
    return batch == other.batch && a_channels == other.a_channels && b_channels == other.b_channels &&
           equal(input, other.input) && equal(output, other.output) && equal(kernel, other.kernel) &&
           equal(stride, other.stride) && equal(padding, other.padding) && equal(dilation, other.dilation) &&
           groups == other.groups && equal(orbits, other.orbits) && transposed == other.transposed;
  }
};

}  // namespace symconv
