// The end of a weight gradient: adds the splits' sums and unfolds the coefficients.
#pragma once

#include "convolution.h"
#include "elements.cuh"
#include "tap_orbits.h"
#include "tile_elements.cuh"

namespace symconv::cuda {

constexpr int kReduceThreads = 128;

struct WgradReduction {
  const float* partial;
  int splits;
  int64_t split_size, group_size;
  TapOrbits taps;
  int64_t orbits, channels, channel_pitch,
      numbers;  // numbers: tap orbits of the block's gradient in all groups
  WeightView weight;
  float slot_scale;  // what the slots were multiplied with
  Divisor channel, orbit, tap_orbit;
};

// One thread for the mirrored taps of an orbit and a channel: adds the splits of their coefficients in order
// and unfolds them. The coefficient of parity p of tap t lies where t is when it is mirrored by p.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads, 4) wgrad_reduce_kernel(WgradReduction s) {
  using Storage = typename TileElement<T>::Storage;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kReduceThreads + threadIdx.x;
  if (i >= s.numbers) return;
  int64_t channel = i;
  int64_t orbit = s.channel.divide(channel);
  int64_t index = s.orbit.divide(orbit);
  const int64_t group = s.tap_orbit.divide(index);
  int unused = 0;
  const Coefficient c = s.taps.coefficient(0, static_cast<int>(index), unused);
  auto mirrored = [&](int g, int d) {
    return static_cast<int>(g & axis_bit(d) ? s.taps.kernel[d] - 1 - c.tap[d] : c.tap[d]);
  };

  float values[kMaxOrbit] = {};
#pragma unroll
  for (int j = 0; j < kMaxOrbit; ++j) {
    if (j >= c.terms()) continue;
    const int g = subset(c.paired, j);
    int tap = 0;
    for (int d = 0; d < kAxes; ++d) tap = tap * s.taps.kernel[d] + mirrored(g, d);
    const float* from =
        s.partial + group * s.group_size + (tap * s.orbits + orbit) * s.channel_pitch + channel;
    for (int split = 0; split < s.splits; ++split) values[j] += from[split * s.split_size];
  }
  hadamard<kMaxOrbit>(values);
  const float scale = s.slot_scale * (TileElement<T>::kHalvesOnPatch ? 1.0f : static_cast<float>(c.terms()));
#pragma unroll
  for (int j = 0; j < kMaxOrbit; ++j) {
    if (j >= c.terms()) continue;
    const int g = subset(c.paired, j);
    int64_t offset = group * s.weight.group + orbit * s.weight.result + channel * s.weight.source;
    for (int d = 0; d < kAxes; ++d) offset += mirrored(g, d) * s.weight.tap[d];
    static_cast<Storage*>(s.weight.data)[offset] = Element<Storage>::store(values[j] / scale);
  }
}

}  // namespace symconv::cuda
