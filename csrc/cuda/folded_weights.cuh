// Folds the weights of one block of orbits and lays them out as mma's B operand takes them.
//
// Layout, in 16-byte words of one lane: [group][filter tile][step of channels][coefficient (TapOrbits)][16
// filters][lane]. The four words of a lane are the B fragments of two neighbouring groups of 8 filters.
// Filters and channels that do not exist are zeros.
#pragma once

#include "../common/channel_map.h"
#include "convolution.h"
#include "elements.cuh"
#include "tap_orbits.h"
#include "tile_elements.cuh"

namespace symconv::cuda {

constexpr int kFoldThreads = 128;

struct FoldedWeightsShape {
  WeightView weight;
  TapOrbits taps;
  int64_t words;       // 16-byte words in all
  int64_t filters;     // of the block, in a group
  int64_t channels;    // that a filter reads
  int64_t tile_pairs;  // 16s of filters in a filter tile
  Divisor pairs, coefficients, steps, tiles;
};

// A tied result ties the weight's result side: filters are orbits, channels are the source's.
template <typename T>
__global__ void __launch_bounds__(kFoldThreads, 4) fold_weights_kernel(FoldedWeightsShape s, Word4* folded) {
  using Storage = typename TileElement<T>::Storage;
  constexpr int kPerWord = 4 / sizeof(Storage);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  if (i >= s.words) return;
  const int lane = static_cast<int>(i % kWarpSize);
  int64_t pair = i / kWarpSize;
  int64_t coefficient_index = s.pairs.divide(pair);
  int64_t step = s.coefficients.divide(coefficient_index);
  int64_t tile = s.steps.divide(step);
  const int64_t group = s.tiles.divide(tile);
  const Coefficient c = s.taps.coefficient(static_cast<int>(coefficient_index));
  const Storage* weights = static_cast<const Storage*>(s.weight.data) + group * s.weight.group;

  Word4 result{};
  for (int r = 0; r < 4; ++r) {
    const int64_t filter = (tile * s.tile_pairs + pair) * 16 + r / 2 * 8 + lane / 4;
    float values[2] = {0, 0};
    for (int e = 0; e < kPerWord; ++e) {
      const int64_t channel = step * TileElement<T>::kStepChannels +
                              r % 2 * (TileElement<T>::kStepChannels / 2) + lane % 4 * kPerWord + e;
      if (filter >= s.filters || channel >= s.channels) continue;
      float sum = 0;
      for (int t = 0; t < c.terms(); ++t) {
        const int g = subset(c.paired, t);
        int64_t offset = filter * s.weight.result + channel * s.weight.source;
        for (int d = 0; d < kAxes; ++d) {
          offset += (g & axis_bit(d) ? s.taps.kernel[d] - 1 - c.tap[d] : c.tap[d]) * s.weight.tap[d];
        }
        const float w = Element<Storage>::load(weights[offset]);
        sum += sign(c.parity, g) > 0 ? w : -w;
      }
      values[e] = TileElement<T>::kHalvesOnPatch ? sum : sum / static_cast<float>(c.terms());
    }
    if constexpr (kPerWord == 2) {
      result.word[r] = pack2<T>(values[0], values[1]);
    } else {
      result.word[r] = to_tf32(values[0]);
    }
  }
  store_global(folded + i, result);
}

}  // namespace symconv::cuda
