// Convolution whose result is tied: one block of orbits at a time, folded implicit GEMM on tensor cores.
//
// M: 128 points of the result, 32 a warp. N: the reduced filters of a tile. K: the coefficients of the fold
// times the channels of the source. A thread block goes through the channels in stages; a stage is the source
// patch of the tile and the folded weights, both brought to shared memory by cp.async, the next stage while
// this one is computed. Each warp loads raw taps with ldmatrix, folds the taps of a tap orbit in registers,
// and multiplies each coefficient into the slot of its parity. The epilogue turns the slots of every orbit
// into its channels, adds the bias and stores.
//
// Shared memory: [position offsets][stage 0][stage 1]; a stage is the patch, rows of one
// position each, 16 bytes longer than the channels that they hold (so that eight neighbours lie in different
// banks), then the weights.
#pragma once

#include "epilogue.cuh"
#include "folded_weights.cuh"
#include "packed_source.h"
#include "tile_iterator.cuh"

namespace symconv::cuda {

constexpr int kTilePointsLog2 = 7;
constexpr int kMostTaps = 128;  // whose offsets stand in the arguments, which costs shared memory nothing

// Groups of 8 filters in a tile of a block whose orbits have `axes` axes: what fills the accumulators, but no
// more than 8, so that a stage of weights stays small.
SYMCONV_HD constexpr int filter_tiles(int axes) { return axes == 0 ? 8 : 16 >> axes; }

// What the kernel of boxes of points and that of strips (tied_result_strips_kernel.cuh) have in common.
struct TiedResultOperands {
  SourceView source;
  const Word4* weights;
  int64_t group_weights, tile_weights;  // words of a group and of a filter tile
  int filter_tiles_per_group;
  int steps, stage_steps,
      stages;  // steps of channels in all (whole stages) and in a stage; stages in flight, 1 or 2
  int stage_bytes, patch_bytes, row_bytes;
  ResultView result;
  BiasView bias;
  int filters;                       // of the block, in a group
  int64_t channels_per_group;        // of the result
  int64_t first_channel[kMaxOrbit];  // channel of the first orbit's mirror image, by the rank of its
                                     // reflection among the mask's subsets

  // Turns the slots of two neighbouring filters into their channels, adds the bias and stores.
  template <typename Storage, int Slots>
  __device__ __forceinline__ void store(int64_t group, int filter, int64_t point, float (&left)[Slots],
                                        float (&right)[Slots]) const {
    hadamard<Slots>(left);
    hadamard<Slots>(right);
#pragma unroll
    for (int s = 0; s < Slots; ++s) {
      const int64_t channel = group * channels_per_group + first_channel[s] + filter;
      store_pair<Storage>(result, bias, point, channel, left[s], right[s], filter + 1 < filters);
    }
  }
};

struct TiedResultArguments : TiedResultOperands {
  TileGeometry tile;
  int taps;
  int tap_offset[kMostTaps];  // bytes of the patch, in the order of TapOrbits
  int tap_orbits[kMaxOrbit];  // by the rank among the mask's subsets of the axes that they are paired along
};

template <typename T, int Axes>
struct TiedResult {
  static constexpr int kSlots = 1 << Axes;
  static constexpr int kFilterTiles = filter_tiles(Axes);
  static constexpr int kPointTiles = 2;  // 16s of points of a warp
  using Element = TileElement<T>;
  using Storage = typename Element::Storage;
  using Accumulators = float[kSlots][kPointTiles][kFilterTiles][4];

  // Multiplies all tap orbits paired along subset D of the folded axes, one step of channels; moves on the
  // two addresses.
  template <int D>
  static __device__ __forceinline__ void multiply(const TiedResultArguments& q, Accumulators& accumulators,
                                                  const SharedAddress (&patch)[kPointTiles], int& tap,
                                                  SharedAddress& weights) {
    constexpr int kTaps = orbit_size(D), kWordsOfTap = kFilterTiles / 2 * 16 * kWarpSize;
    // Eight taps of 32 points and the accumulators do not fit in the registers: 16 points at a time then.
    constexpr int kAtOnce = kTaps == 8 ? 1 : kPointTiles;
    for (int o = 0; o < q.tap_orbits[D]; ++o) {
#pragma unroll
      for (int first = 0; first < kPointTiles; first += kAtOnce) {
        if constexpr (kTaps == 8)
          warp_barrier();  // keeps the compiler from loading ahead into registers that are not there
        uint32_t raw[kTaps][kAtOnce][4];
#pragma unroll
        for (int j = 0; j < kTaps; ++j) {
          const uint32_t offset = static_cast<uint32_t>(q.tap_offset[tap + j]);
#pragma unroll
          for (int m = 0; m < kAtOnce; ++m) load_matrices<4>(raw[j][m], patch[first + m] + offset);
        }
#pragma unroll
        for (int m = 0; m < kAtOnce; ++m) {
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            typename Element::Value values[kTaps];
#pragma unroll
            for (int j = 0; j < kTaps; ++j) values[j] = Element::template value<0>(raw[j][m][r]);
            fold_all<Element>(values);
#pragma unroll
            for (int j = 0; j < kTaps; ++j) raw[j][m][r] = values[j].operand();
          }
        }
        unrolled<kTaps>([&](auto index) {
          constexpr int j = decltype(index)::value, slot = subset(D, j);
#pragma unroll
          for (int pair = 0; pair < kFilterTiles / 2; ++pair) {
            const Word4 b = load_shared<Word4>(weights + j * kWordsOfTap + pair * 16 * kWarpSize);
            const uint32_t low[2] = {b.word[0], b.word[1]}, high[2] = {b.word[2], b.word[3]};
#pragma unroll
            for (int m = 0; m < kAtOnce; ++m) {
              mma<T>(accumulators[slot][first + m][2 * pair], raw[j][m], low);
              mma<T>(accumulators[slot][first + m][2 * pair + 1], raw[j][m], high);
            }
          }
        });
      }
      weights += kTaps * kWordsOfTap;
      tap += kTaps;
    }
  }

  template <int D>
  static __device__ __forceinline__ void multiply_from(const TiedResultArguments& q,
                                                       Accumulators& accumulators,
                                                       const SharedAddress (&patch)[kPointTiles], int& tap,
                                                       SharedAddress& weights) {
    if constexpr (D < kSlots) {
      multiply<D>(q, accumulators, patch, tap, weights);
      multiply_from<D + 1>(q, accumulators, patch, tap, weights);
    }
  }
};

template <typename T, int Axes>
__global__ void __launch_bounds__(kTileThreads, 2) tied_result_kernel(const TiedResultArguments q) {
  using Kernel = TiedResult<T, Axes>;
  using Storage = typename Kernel::Storage;
  SYMCONV_DYNAMIC_SHARED(memory);
  const int thread = static_cast<int>(threadIdx.x), lane = lane_id(), warp = thread / kWarpSize;
  const SharedAddress position_table = shared_address(memory);
  const SharedAddress stage0 = position_table + q.tile.padded_positions() * 4;

  // Which tile this is: filter tiles next to each other read the same patch.
  int64_t tile = blockIdx.x;
  const int filter_tile = static_cast<int>(tile % static_cast<unsigned>(q.filter_tiles_per_group));
  tile /= static_cast<unsigned>(q.filter_tiles_per_group);
  const int64_t group = blockIdx.y;
  const TilePlace place(q.tile, tile);

  fill_position_table(q.tile, place, q.source, position_table);
  block_barrier();

  const Storage* source =
      static_cast<const Storage*>(q.source.data) + place.source_offset(q.tile, q.source, group);
  const Word4* weights = q.weights + group * q.group_weights + filter_tile * q.tile_weights;
  const int stage_words = q.stage_steps * q.taps * (Kernel::kFilterTiles / 2) * kWarpSize;
  const int stage_count = q.steps / q.stage_steps;

  auto fetch = [&](int stage) {
    if (stage < stage_count) {
      const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % q.stages * q.stage_bytes);
      fetch_patch<Storage>(q.tile, position_table, source,
                           stage * q.stage_steps * Kernel::Element::kStepChannels, q.source.channels,
                           q.stage_steps, patch, q.row_bytes);
      fetch_words(weights + static_cast<int64_t>(stage) * stage_words, stage_words,
                  patch + static_cast<uint32_t>(q.patch_bytes));
    }
    copy_commit();
  };

  // The row of each 16x16 operand that this lane gives to ldmatrix: points lane % 16, half of the channels
  // lane / 16.
  SharedAddress rows[Kernel::kPointTiles];
  for (int m = 0; m < Kernel::kPointTiles; ++m) {
    int o[4];
    q.tile.point((warp * Kernel::kPointTiles + m) * 16 + lane % 16, o);
    rows[m] = static_cast<uint32_t>(q.tile.position(o) * q.row_bytes + lane / 16 * 16);
  }

  typename Kernel::Accumulators accumulators = {};
  if (q.stages == 2) fetch(0);
  for (int stage = 0; stage < stage_count; ++stage) {
    if (q.stages == 2) {
      fetch(stage + 1);
      copy_wait<1>();
    } else {
      fetch(stage);
      copy_wait<0>();
    }
    block_barrier();
    const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % q.stages * q.stage_bytes);
    SharedAddress stage_weights = patch + static_cast<uint32_t>(q.patch_bytes + lane * 16);
    for (int step = 0; step < q.stage_steps; ++step) {
      SharedAddress points[Kernel::kPointTiles];
      for (int m = 0; m < Kernel::kPointTiles; ++m)
        points[m] = patch + rows[m] + static_cast<uint32_t>(step * kStepBytes);
      int tap = 0;
      Kernel::template multiply_from<0>(q, accumulators, points, tap, stage_weights);
    }
    block_barrier();  // before the stage is overwritten
  }
  copy_wait<0>();

  // Epilogue: lane l holds points l / 4 and l / 4 + 8, filters 2 (l % 4) and the next of each 16 x 8
  // accumulator.
#pragma unroll
  for (int m = 0; m < Kernel::kPointTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int64_t point = 0;
      const bool inside =
          place.result_point(q.tile, (warp * Kernel::kPointTiles + m) * 16 + half * 8 + lane / 4,
                             q.result.strides[0], q.result.strides + 2, point);
#pragma unroll
      for (int t = 0; t < Kernel::kFilterTiles; ++t) {
        const int filter = (filter_tile * Kernel::kFilterTiles + t) * 8 + lane % 4 * 2;
        float left[Kernel::kSlots], right[Kernel::kSlots];
#pragma unroll
        for (int s = 0; s < Kernel::kSlots; ++s) {
          left[s] = accumulators[s][m][t][2 * half];
          right[s] = accumulators[s][m][t][2 * half + 1];
        }
        if (inside && filter < q.filters) q.store<Storage>(group, filter, point, left, right);
      }
    }
  }
}

}  // namespace symconv::cuda
