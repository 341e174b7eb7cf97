// Copies a strided tensor to channels-last order with each run of a group's channels padded to whole 16
// bytes: a thread per 16 bytes.
#pragma once

#include "elements.cuh"
#include "packed_source.h"

namespace symconv::cuda {

constexpr int kPackThreads = 128;

struct PackShape {
  int64_t vectors;  // in all
  int64_t channels_per_group;
  ChannelRuns runs;
  Divisor vectors_per_group, groups, points[kAxes];
};

template <typename T>
__global__ void __launch_bounds__(kPackThreads, 4)
    pack_kernel(PackShape shape, View<const T> from, Word4* to) {
  constexpr int kElements = 16 / sizeof(T);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x;
  if (i >= shape.vectors) return;
  int64_t vector = i, point[kAxes];
  int64_t group = shape.vectors_per_group.divide(vector);
  int64_t n = shape.groups.divide(group);
  for (int d = kAxes - 1; d >= 0; --d) {
    point[d] = n;
    n = shape.points[d].divide(point[d]);
  }
  union {
    Word4 words;
    T elements[kElements];
  } run;
  run.words = Word4{};
  int r = 0;
  while (r + 1 < shape.runs.count && vector * kElements >= shape.runs.runs[r + 1].at) ++r;
  const int64_t first = vector * kElements - shape.runs.runs[r].at;
  for (int e = 0; e < kElements; ++e) {
    if (first + e < shape.runs.runs[r].channels) {
      const int64_t channel = group * shape.channels_per_group + shape.runs.runs[r].first + first + e;
      run.elements[e] = from.at(n, channel, point);
    }
  }
  store_global(to + i, run.words);
}

}  // namespace symconv::cuda
