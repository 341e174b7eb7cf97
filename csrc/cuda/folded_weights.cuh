// Folds the weights of one block of orbits and lays them out as mma's B operand takes them.
//
// Layout, in 16-byte words of one lane: [group][filter tile][part][step of channels][coefficient][16
// filters][lane]. A part is either all coefficients (TapOrbits) or those of one parity. The four words of a
// lane are the B fragments of two neighbouring groups of 8 filters. Filters and channels that do not exist
// are zeros.
#pragma once

#include "../common/channel_map.h"
#include "convolution.h"
#include "elements.cuh"
#include "tap_orbits.h"
#include "tile_elements.cuh"

namespace symconv::cuda {

constexpr int kFoldThreads = 128;

constexpr int kEveryParity = -1;

// `filters` are what the matrix product has along N, `channels` what it sums over; which of them is tied does
// not matter here.
struct FoldedWeightsShape {
  WeightView weight;
  int64_t filter_stride, channel_stride;
  TapOrbits taps;
  int64_t filters, channels;     // of the block, in a group
  int64_t tile_pairs;            // 16s of filters in a filter tile
  int parts;                     // at most kMaxOrbit
  int parity[kMaxOrbit];         // of a part, or kEveryParity
  int64_t first[kMaxOrbit + 1];  // 16-byte words of a filter tile before a part
  int64_t words;                 // in all
  float scale;                   // on every weight
  Divisor pairs, coefficients[kMaxOrbit], tile, tiles;

  // A part more, of so many coefficients.
  void add_part(int parity_, int64_t count, int64_t steps) {
    parity[parts] = parity_;
    coefficients[parts] = Divisor(count);
    first[parts + 1] = first[parts] + steps * count * tile_pairs * kWarpSize;
    ++parts;
  }
  // After the last part: the rest of the sizes.
  void finish(int64_t groups, int64_t tiles_per_group) {
    words = groups * tiles_per_group * first[parts];
    pairs = Divisor(tile_pairs);
    tile = Divisor(first[parts]);
    tiles = Divisor(tiles_per_group);
  }
};

template <typename T>
__global__ void __launch_bounds__(kFoldThreads, 4) fold_weights_kernel(FoldedWeightsShape s, Word4* folded) {
  using Storage = typename TileElement<T>::Storage;
  constexpr int kPerWord = 4 / sizeof(Storage);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  if (i >= s.words) return;
  int64_t rest = i;
  int64_t tile = s.tile.divide(rest);
  const int64_t group = s.tiles.divide(tile);
  int part = 0;
  while (rest >= s.first[part + 1]) ++part;
  rest -= s.first[part];
  const int lane = static_cast<int>(rest % kWarpSize);
  int64_t pair = rest / kWarpSize;
  int64_t index = s.pairs.divide(pair);
  const int64_t step = s.coefficients[part].divide(index);
  int unused = 0;
  const Coefficient c = s.parity[part] == kEveryParity
                            ? s.taps.coefficient(static_cast<int>(index))
                            : s.taps.coefficient(s.parity[part], static_cast<int>(index), unused);
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
        int64_t offset = filter * s.filter_stride + channel * s.channel_stride;
        for (int d = 0; d < kAxes; ++d) {
          offset += (g & axis_bit(d) ? s.taps.kernel[d] - 1 - c.tap[d] : c.tap[d]) * s.weight.tap[d];
        }
        const float w = Element<Storage>::load(weights[offset]);
        sum += sign(c.parity, g) > 0 ? w : -w;
      }
      values[e] = s.scale * (TileElement<T>::kHalvesOnPatch ? sum : sum / static_cast<float>(c.terms()));
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
