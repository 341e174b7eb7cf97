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

struct TiedResultArguments {
  TileGeometry tile;
  int taps;
  int tap_offset[kMostTaps];  // bytes of the patch, in the order of TapOrbits
  int tap_orbits[kMaxOrbit];  // by the rank among the mask's subsets of the axes that they are paired along
  SourceView source;
  const Word4* weights;
  int64_t group_weights, tile_weights;  // words of a group and of a filter tile
  int filter_tiles_per_group;
  int steps, stage_steps,
      stages;  // steps of channels in all (whole stages) and in a stage; stages in flight, 1 or 2
  int stage_bytes, patch_bytes, row_bytes;
  int row_pitch;  // bytes from one row of the patch to the next along v
  ResultView result;
  BiasView bias;
  int filters;                       // of the block, in a group
  int64_t channels_per_group;        // of the result
  int64_t first_channel[kMaxOrbit];  // channel of the first orbit's mirror image, by the rank of its
                                     // reflection among the mask's subsets
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
            for (int j = 0; j < kTaps; ++j) values[j] = Element::template value<axis_count(D)>(raw[j][m][r]);
            hadamard<kTaps>(values);
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

  // Multiplies one coefficient of 32 points into its slot; `operand(m)` gives the four words of 16 points.
  template <int Slot, typename Operand>
  static __device__ __forceinline__ void multiply_coefficient(Accumulators& accumulators,
                                                              SharedAddress weights, Operand&& operand) {
    uint32_t a[kPointTiles][4];
#pragma unroll
    for (int m = 0; m < kPointTiles; ++m) {
#pragma unroll
      for (int r = 0; r < 4; ++r) a[m][r] = operand(m, r);
    }
#pragma unroll
    for (int pair = 0; pair < kFilterTiles / 2; ++pair) {
      const Word4 b = load_shared<Word4>(weights + pair * 16 * kWarpSize);
      const uint32_t low[2] = {b.word[0], b.word[1]}, high[2] = {b.word[2], b.word[3]};
#pragma unroll
      for (int m = 0; m < kPointTiles; ++m) {
        mma<T>(accumulators[Slot][m][2 * pair], a[m], low);
        mma<T>(accumulators[Slot][m][2 * pair + 1], a[m], high);
      }
    }
  }

  // One step of channels of a fold over h and v with three taps along v, for 2 x 16 points in neighbouring
  // rows: rows v to v + 3 are loaded once and serve both rows of points, which saves a third of the loads.
  // The same numbers as multiply() gives.
  static __device__ __forceinline__ void multiply_rows(const TiedResultArguments& q,
                                                       Accumulators& accumulators, SharedAddress patch,
                                                       SharedAddress& weights) {
    constexpr int kWordsOfTap = kFilterTiles / 2 * 16 * kWarpSize;
    using Value = typename Element::Value;
    // Tap orbits in a middle column and in pairs of columns (those of every plane of taps), and the
    // coefficients before those paired along h, v, and both.
    const int middle = q.tap_orbits[0], pairs = q.tap_orbits[1];
    const int paired_h = middle, paired_v = paired_h + 2 * pairs, paired_hv = paired_v + 2 * middle;
    for (int o = 0; o < middle; ++o) {
      Value rows[4][4];
      load_rows<0>(rows, patch + static_cast<uint32_t>(q.tap_offset[paired_v + 2 * o]), q.row_pitch);
      multiply_coefficient<0>(accumulators, weights + o * kWordsOfTap,
                              [&](int m, int r) { return rows[1 + m][r].operand(); });
      fold_rows(rows);
      const SharedAddress of_v = weights + (paired_v + 2 * o) * kWordsOfTap;
      multiply_coefficient<0>(accumulators, of_v, [&](int m, int r) { return rows[m][r].operand(); });
      multiply_coefficient<2>(accumulators, of_v + kWordsOfTap,
                              [&](int m, int r) { return rows[2 + m][r].operand(); });
    }
    for (int o = 0; o < pairs; ++o) {
      Value even[4][4], odd[4][4];
      load_rows<1>(even, patch + static_cast<uint32_t>(q.tap_offset[paired_hv + 4 * o]), q.row_pitch);
      load_rows<1>(odd, patch + static_cast<uint32_t>(q.tap_offset[paired_hv + 4 * o + 1]), q.row_pitch);
#pragma unroll
      for (int row = 0; row < 4; ++row) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          Value pair[2] = {even[row][r], odd[row][r]};
          hadamard<2>(pair);
          even[row][r] = pair[0];
          odd[row][r] = pair[1];
        }
      }
      const SharedAddress of_h = weights + (paired_h + 2 * o) * kWordsOfTap;
      multiply_coefficient<0>(accumulators, of_h, [&](int m, int r) { return even[1 + m][r].operand(); });
      multiply_coefficient<1>(accumulators, of_h + kWordsOfTap,
                              [&](int m, int r) { return odd[1 + m][r].operand(); });
      fold_rows(even);
      fold_rows(odd);
      const SharedAddress of_hv = weights + (paired_hv + 4 * o) * kWordsOfTap;
      multiply_coefficient<0>(accumulators, of_hv, [&](int m, int r) { return even[m][r].operand(); });
      multiply_coefficient<1>(accumulators, of_hv + kWordsOfTap,
                              [&](int m, int r) { return odd[m][r].operand(); });
      multiply_coefficient<2>(accumulators, of_hv + 2 * kWordsOfTap,
                              [&](int m, int r) { return even[2 + m][r].operand(); });
      multiply_coefficient<3>(accumulators, of_hv + 3 * kWordsOfTap,
                              [&](int m, int r) { return odd[2 + m][r].operand(); });
    }
    weights += q.taps * kWordsOfTap;
  }

  // Four rows of a column of taps.
  template <int Axes_>
  static __device__ __forceinline__ void load_rows(typename Element::Value (&rows)[4][4],
                                                   SharedAddress column, int pitch) {
#pragma unroll
    for (int row = 0; row < 4; ++row) {
      uint32_t raw[4];
      load_matrices<4>(raw, column + static_cast<uint32_t>(row * pitch));
#pragma unroll
      for (int r = 0; r < 4; ++r) rows[row][r] = Element::template value<Axes_>(raw[r]);
    }
  }

  // Rows 0 and 2, and 1 and 3, become their sums (rows 0 and 1) and differences (rows 2 and 3).
  static __device__ __forceinline__ void fold_rows(typename Element::Value (&rows)[4][4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        typename Element::Value pair[2] = {rows[m][r].halved(), rows[2 + m][r].halved()};
        hadamard<2>(pair);
        rows[m][r] = pair[0];
        rows[2 + m][r] = pair[1];
      }
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

// `SharedRows`: by multiply_rows(), for two axes.
template <typename T, int Axes, bool SharedRows>
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
                           q.stage_steps * 2, patch, q.row_bytes);
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
      if constexpr (SharedRows) {
        Kernel::multiply_rows(q, accumulators, points[0], stage_weights);
      } else {
        int tap = 0;
        Kernel::template multiply_from<0>(q, accumulators, points, tap, stage_weights);
      }
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
        hadamard<Kernel::kSlots>(left);
        hadamard<Kernel::kSlots>(right);
#pragma unroll
        for (int s = 0; s < Kernel::kSlots; ++s) {
          const int64_t channel = group * q.channels_per_group + q.first_channel[s] + filter;
          if (inside && filter < q.filters) {
            store_pair<Storage>(q.result, q.bias, point, channel, left[s], right[s], filter + 1 < q.filters);
          }
        }
      }
    }
  }
}

}  // namespace symconv::cuda
