// Convolution whose source is tied: folded implicit GEMM on tensor cores, from the planes of slots of the
// source.
//
// M: 256 points of the result, 64 a warp. N: 64 channels of the result. K: for every block of orbits and
// every parity of its fold, the coefficients of that parity times the orbits; the patch of a parity is folded
// from the plane of that slot alone, so there is one set of accumulators whatever the orbits are. Stages,
// shared memory and the fold in registers are those of tied_result_kernel.cuh, but for a patch that is folded
// into a single coefficient at a time, by a table of its taps:
//
// Shared memory: [coefficients: taps of each][taps: offset and factor][position offsets][stage 0][stage 1].
#pragma once

#include "epilogue.cuh"
#include "folded_weights.cuh"
#include "packed_source.h"
#include "tile_iterator.cuh"

namespace symconv::cuda {

constexpr int kTiedSourcePointsLog2 = 8;
constexpr int kTiedSourceChannelTiles = 8;  // groups of 8 channels
constexpr int kMostParities = 27;           // of all blocks together

// One parity of one block.
struct SourceParity {
  int mask, parity;
  int coefficients, first_coefficient, first_term;  // of the tables
  int steps;                                        // of channels, in whole stages
  int channel, channels;                            // its plane, within a group
  int64_t weights, tile_weights;  // words before the part of the first filter tile; of one filter tile
};

// What the kernel of boxes of points and that of strips (tied_source_strips_kernel.cuh) have in common.
struct TiedSourceOperands {
  SourceView source;
  const Word4* weights;
  int tiles_per_group;  // of channels of the result
  int stage_steps, stages, stage_count;
  int stage_bytes, patch_bytes, row_bytes;
  ResultView result;
  BiasView bias;
  int channels_per_group;  // of the result
  int parities;
  SourceParity parity[kMostParities];
};

struct TiedSourceArguments : TiedSourceOperands {
  TileGeometry tile;
  int coefficients, terms;  // of all parities
};

// A place in the sequence of stages.
struct StageCursor {
  int parity = 0, step = 0;

  __device__ __forceinline__ void advance(const TiedSourceOperands& q) {
    step += q.stage_steps;
    if (step >= q.parity[parity].steps) {
      step = 0;
      ++parity;
    }
  }
};

template <typename T>
__global__ void __launch_bounds__(kTileThreads, 2) tied_source_kernel(const TiedSourceArguments q) {
  using Element = TileElement<T>;
  using Storage = typename Element::Storage;
  constexpr int kPointTiles = 4, kPairs = kTiedSourceChannelTiles / 2;
  SYMCONV_DYNAMIC_SHARED(memory);
  const int thread = static_cast<int>(threadIdx.x), lane = lane_id(), warp = thread / kWarpSize;
  const SharedAddress coefficient_table = shared_address(memory);
  const SharedAddress term_table = coefficient_table + (q.coefficients + 3) / 4 * 16;
  const SharedAddress position_table = term_table + (q.terms + 1) / 2 * 16;
  const SharedAddress stage0 = position_table + q.tile.padded_positions() * 4;

  int64_t tile = blockIdx.x;
  const int channel_tile = static_cast<int>(tile % static_cast<unsigned>(q.tiles_per_group));
  tile /= static_cast<unsigned>(q.tiles_per_group);
  const int64_t group = blockIdx.y;
  const TilePlace place(q.tile, tile);

  for (int i = thread; i < q.coefficients; i += kTileThreads) {
    int p = 0;
    while (p + 1 < q.parities && i >= q.parity[p + 1].first_coefficient) ++p;
    const TapOrbits taps(q.parity[p].mask, q.tile.kernel);
    int term = 0;
    const Coefficient c = taps.coefficient(q.parity[p].parity, i - q.parity[p].first_coefficient, term);
    store_shared(coefficient_table + 4 * i, static_cast<uint32_t>(c.terms()));
    term += q.parity[p].first_term;
    for (int t = 0; t < c.terms(); ++t) {
      const int g = subset(c.paired, t);
      const Word2 entry{{static_cast<uint32_t>(q.tile.tap_offset(c.tap, g) * q.row_bytes),
                         Element::factor(sign(c.parity, g), axis_count(c.paired))}};
      store_shared(term_table + 8 * (term + t), entry);
    }
  }
  fill_position_table(q.tile, place, q.source, position_table);
  block_barrier();

  const Storage* source =
      static_cast<const Storage*>(q.source.data) + place.source_offset(q.tile, q.source, group);

  auto fetch = [&](int stage, const StageCursor& at) {
    if (stage < q.stage_count) {
      const SourceParity& parity = q.parity[at.parity];
      const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % q.stages * q.stage_bytes);
      fetch_patch<Storage>(q.tile, position_table, source + parity.channel, at.step * Element::kStepChannels,
                           parity.channels, q.stage_steps, patch, q.row_bytes);
      const int step_words = parity.coefficients * kPairs * kWarpSize;
      const Word4* from = q.weights + parity.weights +
                          (group * q.tiles_per_group + channel_tile) * parity.tile_weights +
                          static_cast<int64_t>(at.step) * step_words;
      fetch_words(from, q.stage_steps * step_words, patch + static_cast<uint32_t>(q.patch_bytes));
    }
    copy_commit();
  };

  SharedAddress rows[kPointTiles];
  for (int m = 0; m < kPointTiles; ++m) {
    int o[4];
    q.tile.point((warp * kPointTiles + m) * 16 + lane % 16, o);
    rows[m] = static_cast<uint32_t>(q.tile.position(o) * q.row_bytes + lane / 16 * 16);
  }

  float accumulators[kPointTiles][kTiedSourceChannelTiles][4] = {};
  StageCursor next, at;
  if (q.stages == 2) {
    fetch(0, next);
    next.advance(q);
  }
  for (int stage = 0; stage < q.stage_count; ++stage) {
    if (q.stages == 2) {
      fetch(stage + 1, next);
      copy_wait<1>();
    } else {
      fetch(stage, next);
      copy_wait<0>();
    }
    next.advance(q);
    block_barrier();
    const SourceParity& parity = q.parity[at.parity];
    const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % q.stages * q.stage_bytes);
    SharedAddress weights = patch + static_cast<uint32_t>(q.patch_bytes + lane * 16);
    for (int step = 0; step < q.stage_steps; ++step) {
      const uint32_t step_offset = patch + static_cast<uint32_t>(step * kStepBytes);
      SharedAddress terms = term_table + 8 * parity.first_term;
      for (int j = 0; j < parity.coefficients; ++j) {
        const int count = load_shared<int>(coefficient_table + 4 * (parity.first_coefficient + j));
        uint32_t folded[kPointTiles][4];
        typename Element::Value values[kPointTiles][4] = {};
        for (int t = 0; t < count; ++t) {
          const Word2 entry = load_shared<Word2>(terms);
          terms += 8;
#pragma unroll
          for (int m = 0; m < kPointTiles; ++m) {
            uint32_t raw[4];
            load_matrices<4>(raw, rows[m] + step_offset + entry.word[0]);
#pragma unroll
            for (int r = 0; r < 4; ++r) values[m][r] = values[m][r].plus(raw[r], entry.word[1]);
          }
        }
#pragma unroll
        for (int m = 0; m < kPointTiles; ++m) {
#pragma unroll
          for (int r = 0; r < 4; ++r) folded[m][r] = values[m][r].operand();
        }
#pragma unroll
        for (int pair = 0; pair < kPairs; ++pair) {
          const Word4 b = load_shared<Word4>(weights);
          weights += 16 * kWarpSize;
          const uint32_t low[2] = {b.word[0], b.word[1]}, high[2] = {b.word[2], b.word[3]};
#pragma unroll
          for (int m = 0; m < kPointTiles; ++m) {
            mma<T>(accumulators[m][2 * pair], folded[m], low);
            mma<T>(accumulators[m][2 * pair + 1], folded[m], high);
          }
        }
      }
    }
    at.advance(q);
    block_barrier();  // before the stage is overwritten
  }
  copy_wait<0>();

#pragma unroll
  for (int m = 0; m < kPointTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int64_t point = 0;
      const bool inside = place.result_point(q.tile, (warp * kPointTiles + m) * 16 + half * 8 + lane / 4,
                                             q.result.strides[0], q.result.strides + 2, point);
#pragma unroll
      for (int t = 0; t < kTiedSourceChannelTiles; ++t) {
        const int channel = (channel_tile * kTiedSourceChannelTiles + t) * 8 + lane % 4 * 2;
        if (inside && channel < q.channels_per_group) {
          store_pair<Storage>(q.result, q.bias, point, group * q.channels_per_group + channel,
                              accumulators[m][t][2 * half], accumulators[m][t][2 * half + 1],
                              channel + 1 < q.channels_per_group);
        }
      }
    }
  }
}

}  // namespace symconv::cuda
