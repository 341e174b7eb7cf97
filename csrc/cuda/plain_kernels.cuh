// The plain twins: one thread per number of the result, every problem, straight from the reduced weights by
// mirrored taps.
//
// Each loop has a sum of its own (channels of taps, images of rows), so that float32 loses no more than a
// blocked sum would.
#pragma once

#include "../common/channel_map.h"
#include "../common/fold.h"
#include "elements.cuh"

namespace symconv::cuda {

struct PlainProblem {
  Problem p;
  ChannelMap map;
  int64_t a_per_group, b_per_group, rows_per_group;
  Divisor a, b, rows, columns, filters_a, filters_b, input[kAxes], output[kAxes], kernel[kAxes],
      stride[kAxes];

  explicit PlainProblem(const Problem& problem)
      : p(problem),
        map(problem),
        a_per_group(p.a_channels / p.groups),
        b_per_group(p.b_channels / p.groups),
        rows_per_group(p.weight_rows() / p.groups),
        a(p.a_channels),
        b(p.b_channels),
        rows(rows_per_group),
        columns(p.weight_columns()),
        filters_a(a_per_group),
        filters_b(b_per_group) {
    for (int d = 0; d < kAxes; ++d) {
      input[d] = Divisor(p.input[d]);
      output[d] = Divisor(p.output[d]);
      kernel[d] = Divisor(p.kernel[d]);
      stride[d] = Divisor(p.stride[d]);
    }
  }

  // Offset of dense weight (a, b, tap) of a group in the reduced weight.
  __device__ int64_t weight_offset(const int64_t* strides, int64_t group, Member a, Member b,
                                   const int64_t* tap) const {
    const int g = a.reflection | b.reflection;  // one of them is 0
    int64_t offset = (group * rows_per_group + a.filter) * strides[0] + b.filter * strides[1];
    for (int d = 0; d < kAxes; ++d)
      offset += (g & axis_bit(d) ? p.kernel[d] - 1 - tap[d] : tap[d]) * strides[2 + d];
    return offset;
  }

  // Calls visit(channel, member) for the `channels` dense channels of a group on one side.
  template <typename Visit>
  __device__ void for_each_channel(int64_t channels, bool tied, Visit&& visit) const {
    if (!tied) {
      for (int64_t c = 0; c < channels; ++c) visit(c, Member{c, 0});
      return;
    }
    for (int i = 0; i < kBlocks; ++i) {
      const Block& block = map.blocks[i];
      for (int copy = 0; copy < block.size(); ++copy) {
        for (int64_t orbit = 0; orbit < block.orbits; ++orbit) {
          visit(block.channel(orbit, copy), Member{block.first + orbit, reflection(block.mask, copy)});
        }
      }
    }
  }
};

// The point that `index` counts, z slowest; leaves in `index` what is above z.
__device__ __forceinline__ void unravel(int64_t& index, const Divisor* extent, int64_t* point) {
  for (int d = kAxes - 1; d >= 0; --d) {
    int64_t rest = index;
    index = extent[d].divide(rest);
    point[d] = rest;
  }
}

constexpr int kPlainThreads = 128;

// Kahan's sum: `lost` is what the last addition rounded away.
template <typename Real>
struct CompensatedSum {
  Real value = 0, lost = 0;
  __device__ __forceinline__ void add(Real term) {
    const Real corrected = term - lost, sum = value + corrected;
    lost = (sum - value) - corrected;
    value = sum;
  }
};

__device__ __forceinline__ int64_t plain_index() {
  return static_cast<int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;
}

// One thread per output (n, a, y); a runs fastest, as in channels_last.
template <typename T>
__global__ void __launch_bounds__(kPlainThreads, 4)
    fprop_plain_kernel(PlainProblem q, View<const T> input, View<const T> weight, View<const T> bias,
                       View<T> output) {
  using Real = typename Element<T>::Real;
  const Problem& p = q.p;
  int64_t i = plain_index();
  if (i >= p.batch * p.output_points() * p.a_channels) return;
  int64_t channel = i, y[kAxes], tap[kAxes], x[kAxes];
  int64_t n = q.a.divide(channel), in_group = channel;
  unravel(n, q.output, y);
  const int64_t group = q.filters_a.divide(in_group);
  const Member a = p.transposed ? Member{in_group, 0} : q.map.member(in_group);

  CompensatedSum<Real> total;
  if (bias.data) total.add(Element<T>::load(bias.data[channel * bias.strides[0]]));
  q.for_each_channel(q.b_per_group, p.transposed, [&](int64_t b, Member member) {
    for (tap[0] = 0; tap[0] < p.kernel[0]; ++tap[0]) {
      x[0] = y[0] * p.stride[0] - p.padding[0] + tap[0] * p.dilation[0];
      if (x[0] < 0 || x[0] >= p.input[0]) continue;
      for (tap[1] = 0; tap[1] < p.kernel[1]; ++tap[1]) {
        x[1] = y[1] * p.stride[1] - p.padding[1] + tap[1] * p.dilation[1];
        if (x[1] < 0 || x[1] >= p.input[1]) continue;
        for (tap[2] = 0; tap[2] < p.kernel[2]; ++tap[2]) {
          x[2] = y[2] * p.stride[2] - p.padding[2] + tap[2] * p.dilation[2];
          if (x[2] < 0 || x[2] >= p.input[2]) continue;
          total.add(Element<T>::load(weight.data[q.weight_offset(weight.strides, group, a, member, tap)]) *
                    Element<T>::load(input.at(n, group * q.b_per_group + b, x)));
        }
      }
    }
  });
  output.at(n, channel, y) = Element<T>::store(total.value);
}

// The output point along dimension d whose tap `tap` reads input point x, or -1.
__device__ __forceinline__ int64_t output_point(const PlainProblem& q, int d, int64_t x, int64_t tap) {
  int64_t rest = x + q.p.padding[d] - tap * q.p.dilation[d];
  if (rest < 0) return -1;
  const int64_t y = q.stride[d].divide(rest);
  return rest == 0 && y < q.p.output[d] ? y : -1;
}

// One thread per input point (n, b, x).
template <typename T>
__global__ void __launch_bounds__(kPlainThreads, 4)
    dgrad_plain_kernel(PlainProblem q, View<const T> grad_output, View<const T> weight, View<const T> bias,
                       View<T> grad_input) {
  using Real = typename Element<T>::Real;
  const Problem& p = q.p;
  int64_t i = plain_index();
  if (i >= p.batch * p.input_points() * p.b_channels) return;
  int64_t channel = i, x[kAxes], tap[kAxes], y[kAxes];
  int64_t n = q.b.divide(channel), in_group = channel;
  unravel(n, q.input, x);
  const int64_t group = q.filters_b.divide(in_group);
  const Member b = p.transposed ? q.map.member(in_group) : Member{in_group, 0};

  CompensatedSum<Real> total;
  if (bias.data) total.add(Element<T>::load(bias.data[channel * bias.strides[0]]));
  q.for_each_channel(q.a_per_group, !p.transposed, [&](int64_t a, Member member) {
    for (tap[0] = 0; tap[0] < p.kernel[0]; ++tap[0]) {
      if ((y[0] = output_point(q, 0, x[0], tap[0])) < 0) continue;
      for (tap[1] = 0; tap[1] < p.kernel[1]; ++tap[1]) {
        if ((y[1] = output_point(q, 1, x[1], tap[1])) < 0) continue;
        for (tap[2] = 0; tap[2] < p.kernel[2]; ++tap[2]) {
          if ((y[2] = output_point(q, 2, x[2], tap[2])) < 0) continue;
          total.add(Element<T>::load(weight.data[q.weight_offset(weight.strides, group, member, b, tap)]) *
                    Element<T>::load(grad_output.at(n, group * q.a_per_group + a, y)));
        }
      }
    }
  });
  grad_input.at(n, channel, x) = Element<T>::store(total.value);
}

// One thread per reduced weight (row, column, tap); it sums over the copies of its orbit and all output
// points.
template <typename T>
__global__ void __launch_bounds__(kPlainThreads, 4)
    wgrad_plain_kernel(PlainProblem q, View<const T> grad_output, View<const T> input, View<T> grad_weight) {
  using Real = typename Element<T>::Real;
  const Problem& p = q.p;
  int64_t i = plain_index();
  if (i >= p.weight_rows() * p.weight_columns() * p.taps()) return;
  int64_t tap[kAxes], y[kAxes], x[kAxes], at[kAxes];
  unravel(i, q.kernel, tap);
  int64_t column = i;
  const int64_t row = q.columns.divide(column);
  int64_t row_in_group = row;
  const int64_t group = q.rows.divide(row_in_group), filter = p.transposed ? column : row_in_group;
  const Block block = q.map.block_of(filter);

  CompensatedSum<Real> total;
  for (int copy = 0; copy < block.size(); ++copy) {
    const int64_t tied = block.channel(filter - block.first, copy);
    const int g = reflection(block.mask, copy);
    for (int d = 0; d < kAxes; ++d) at[d] = g & axis_bit(d) ? p.kernel[d] - 1 - tap[d] : tap[d];
    const int64_t a = p.transposed ? row : group * q.a_per_group + tied;
    const int64_t b = group * q.b_per_group + (p.transposed ? tied : column);
    for (int64_t n = 0; n < p.batch; ++n) {
      for (y[0] = 0; y[0] < p.output[0]; ++y[0]) {
        x[0] = y[0] * p.stride[0] - p.padding[0] + at[0] * p.dilation[0];
        if (x[0] < 0 || x[0] >= p.input[0]) continue;
        for (y[1] = 0; y[1] < p.output[1]; ++y[1]) {
          x[1] = y[1] * p.stride[1] - p.padding[1] + at[1] * p.dilation[1];
          if (x[1] < 0 || x[1] >= p.input[1]) continue;
          for (y[2] = 0; y[2] < p.output[2]; ++y[2]) {
            x[2] = y[2] * p.stride[2] - p.padding[2] + at[2] * p.dilation[2];
            if (x[2] < 0 || x[2] >= p.input[2]) continue;
            total.add(Element<T>::load(grad_output.at(n, a, y)) * Element<T>::load(input.at(n, b, x)));
          }
        }
      }
    }
  }
  grad_weight.at(row, column, tap) = Element<T>::store(total.value);
}

}  // namespace symconv::cuda
