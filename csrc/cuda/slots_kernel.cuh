// The slots of a tied tensor: the butterfly of every orbit's channels, as planes for the tensor-core kernels.
//
// Planes lie channels last; the channels of a point are [group][block][parity pattern of the block's
// mask][orbit], each run of orbits padded with zeros to whole 16 bytes. A thread computes 16 bytes of all
// planes of its block.
#pragma once

#include "../common/channel_map.h"
#include "../common/fold.h"
#include "elements.cuh"
#include "tile_elements.cuh"

namespace symconv::cuda {

constexpr int kSlotsThreads = 128;

// One block of orbits of every group.
struct SlotsShape {
  Block block;
  int64_t runs;  // 16-byte runs of one plane: points times groups times runs of an orbit row
  int64_t channels_per_group;
  int64_t point_stride, group_stride, plane_stride;  // elements of the planes tensor
  int64_t first;                                     // of the block's planes within a group's
  float scale;
  Divisor runs_per_group, groups, points[kAxes];
};

template <typename T>
__global__ void __launch_bounds__(kSlotsThreads, 4)
    slots_kernel(SlotsShape s, View<const T> from, T* planes) {
  constexpr int kElements = 16 / sizeof(T);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kSlotsThreads + threadIdx.x;
  if (i >= s.runs) return;
  int64_t run = i, point[kAxes];
  int64_t group = s.runs_per_group.divide(run);
  const int64_t index = s.groups.divide(group);
  int64_t n = index;
  for (int d = kAxes - 1; d >= 0; --d) {
    point[d] = n;
    n = s.points[d].divide(point[d]);
  }
  T* to = planes + index * s.point_stride + group * s.group_stride + s.first + run * kElements;
  for (int q = 0; q < s.block.size(); ++q) {
    union {
      Word4 words;
      T elements[kElements];
    } slots;
    slots.words = Word4{};
    for (int e = 0; e < kElements; ++e) {
      const int64_t orbit = run * kElements + e;
      if (orbit >= s.block.orbits) continue;
      float sum = 0;
      for (int copy = 0; copy < s.block.size(); ++copy) {
        const int64_t channel = group * s.channels_per_group + s.block.channel(orbit, copy);
        const float value = Element<T>::load(from.at(n, channel, point));
        sum += sign(subset(s.block.mask, q), reflection(s.block.mask, copy)) > 0 ? value : -value;
      }
      slots.elements[e] = Element<T>::store(sum * s.scale);
    }
    store_global(to + q * s.plane_stride, slots.words);
  }
}

}  // namespace symconv::cuda
