// Convolution whose result is tied, for orbits mirrored along h and v and three taps along v: as
// tied_result_kernel.cuh, but from tiles of strips (strips.h).
//
// M: 64 points of the result a warp, eight strips. N: 32 orbits of a tile, 16 a warp. Two warps read the same
// strips, so that a warp's fragment of the weights serves 64 points, and each row of the patch that it loads
// the taps of three; the accumulators of four slots are as many as for 32 points by 32 orbits.
//
// Shared memory: as in tied_result_kernel.cuh.
#pragma once

#include "strip_iterator.cuh"
#include "tied_result_kernel.cuh"

namespace symconv::cuda {

constexpr int kStripFilterWarps = filter_tiles(2) / 2;  // 16s of filters in a tile

struct TiedResultStripsArguments : TiedResultOperands {
  StripGeometry strips;
  int middle, pairs;  // columns of taps along h: 1 or 0 in the middle, and pairs around it
  int tap_step;       // bytes from one to the next
};

template <typename T, int Run>
struct TiedResultStrips {
  using Column = StripColumn<T, Run>;
  using Value = typename Column::Value;
  using Element = TileElement<T>;
  using Storage = typename Element::Storage;
  // By slot, 16s of points, 8s of filters.
  using Accumulators = float[4][kStripPointTiles][2][4];
  static constexpr int kWordsOfTap = kStripFilterWarps * 16 * kWarpSize;

  template <int Slot>
  static __device__ __forceinline__ void multiply(Accumulators& accumulators, int m, const uint32_t (&a)[4],
                                                  const Word4& b) {
    const uint32_t low[2] = {b.word[0], b.word[1]}, high[2] = {b.word[2], b.word[3]};
    mma<T>(accumulators[Slot][m][0], a, low);
    mma<T>(accumulators[Slot][m][1], a, high);
  }

  // The coefficient of the middle tap along v, into its slot.
  template <int Slot>
  static __device__ __forceinline__ void multiply_middle(Accumulators& accumulators, SharedAddress weights,
                                                         const Column& column) {
    const Word4 b = load_shared<Word4>(weights);
#pragma unroll
    for (int m = 0; m < kStripPointTiles; ++m) {
      uint32_t a[4];
      Column::operand(a, m, [&](int point, int half) { return column.tap(point, half, 1); });
      multiply<Slot>(accumulators, m, a, b);
    }
  }

  // The two coefficients of the outer taps along v, into the slots that are even and odd along v.
  template <int Even, int Odd>
  static __device__ __forceinline__ void multiply_pair(Accumulators& accumulators, SharedAddress even,
                                                       SharedAddress odd, const Column& column) {
    const Word4 b_even = load_shared<Word4>(even), b_odd = load_shared<Word4>(odd);
#pragma unroll
    for (int m = 0; m < kStripPointTiles; ++m) {
      uint32_t a[4];
      Column::operand(a, m, [&](int point, int half) { return column.fold(point, half).even; });
      multiply<Even>(accumulators, m, a, b_even);
      Column::operand(a, m, [&](int point, int half) { return column.fold(point, half).odd; });
      multiply<Odd>(accumulators, m, a, b_odd);
    }
  }

  // One step of channels. The weights lie in the order of TapOrbits: those of the middle column, of the pairs
  // of columns, and of both the coefficients of the outer taps along v.
  static __device__ __forceinline__ void multiply_step(const TiedResultStripsArguments& q, int row_pitch,
                                                       Accumulators& accumulators, SharedAddress patch,
                                                       SharedAddress weights) {
    const int paired_h = q.middle, paired_v = paired_h + 2 * q.pairs, paired_hv = paired_v + 2 * q.middle;
    const int last = q.middle + 2 * q.pairs - 1;
    const SharedAddress step = static_cast<SharedAddress>(q.tap_step);
    for (int o = 0; o < q.middle; ++o) {
      Column column;
      Column::load(patch + static_cast<SharedAddress>(q.pairs) * step, row_pitch,
                   [&](int row, int half, uint32_t word) {
                     column.rows[row][half] = Element::template value<0>(word);
                   });
      multiply_middle<0>(accumulators, weights, column);
      const SharedAddress of_v = weights + paired_v * kWordsOfTap;
      multiply_pair<0, 2>(accumulators, of_v, of_v + kWordsOfTap, column);
    }
    for (int o = 0; o < q.pairs; ++o) {
      Column even, odd;
      Column::load(
          patch + static_cast<SharedAddress>(o) * step, row_pitch,
          [&](int row, int half, uint32_t word) { even.rows[row][half] = Element::template value<0>(word); });
      Column::load(patch + static_cast<SharedAddress>(last - o) * step, row_pitch,
                   [&](int row, int half, uint32_t word) {
                     odd.rows[row][half] = Element::template value<0>(word);
                     Element::template fold<1>(even.rows[row][half], odd.rows[row][half]);
                   });
      const SharedAddress of_h = weights + (paired_h + 2 * o) * kWordsOfTap;
      multiply_middle<0>(accumulators, of_h, even);
      multiply_middle<1>(accumulators, of_h + kWordsOfTap, odd);
      const SharedAddress of_hv = weights + (paired_hv + 4 * o) * kWordsOfTap;
      multiply_pair<0, 2>(accumulators, of_hv, of_hv + 2 * kWordsOfTap, even);
      multiply_pair<1, 3>(accumulators, of_hv + kWordsOfTap, of_hv + 3 * kWordsOfTap, odd);
    }
  }
};

// `Run`: the strips', 7 or 8.
template <typename T, int Run>
__global__ void __launch_bounds__(kMostStripWarps* kWarpSize, 1)
    tied_result_strips_kernel(const TiedResultStripsArguments q) {
  using Kernel = TiedResultStrips<T, Run>;
  using Storage = typename Kernel::Storage;
  SYMCONV_DYNAMIC_SHARED(memory);
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int first_strip = warp / kStripFilterWarps * kWarpStrips, filter_warp = warp % kStripFilterWarps;
  const SharedAddress position_table = shared_address(memory);
  const SharedAddress stage0 = position_table + q.strips.padded_positions() * 4;

  // Which tile this is: filter tiles next to each other read the same patch.
  int64_t tile = blockIdx.x;
  const int filter_tile = static_cast<int>(tile % static_cast<unsigned>(q.filter_tiles_per_group));
  tile /= static_cast<unsigned>(q.filter_tiles_per_group);
  const int64_t group = blockIdx.y;
  const StripPlace place(q.strips, tile);

  fill_position_table(q.strips, place, q.source, position_table);
  block_barrier();

  const Storage* source =
      static_cast<const Storage*>(q.source.data) + place.source_offset(q.strips, q.source, group);
  const Word4* weights = q.weights + group * q.group_weights + filter_tile * q.tile_weights;
  const int step_bytes = kStripTaps * (q.middle + 2 * q.pairs) * Kernel::kWordsOfTap;
  const int stage_words = q.stage_steps * step_bytes / 16;
  const int stage_count = q.steps / q.stage_steps;

  auto fetch = [&](int stage) {
    if (stage < stage_count) {
      const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % kStripStages * q.stage_bytes);
      fetch_patch<Storage>(q.strips, position_table, source,
                           stage * q.stage_steps * Kernel::Element::kStepChannels, q.source.channels,
                           q.stage_steps, patch, q.row_bytes);
      fetch_words(weights + static_cast<int64_t>(stage) * stage_words, stage_words,
                  patch + static_cast<uint32_t>(q.patch_bytes));
    }
    copy_commit();
  };

  const int row_pitch = q.strips.columns * q.row_bytes;
  const SharedAddress strips = Kernel::Column::address(
      lane, place.column(q.strips, first_strip + lane % kWarpStrips), q.row_bytes, row_pitch);

  typename Kernel::Accumulators accumulators = {};
  fetch(0);
  for (int stage = 0; stage < stage_count; ++stage) {
    fetch(stage + 1);
    copy_wait<1>();
    block_barrier();
    const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % kStripStages * q.stage_bytes);
    const SharedAddress stage_weights =
        patch + static_cast<uint32_t>(q.patch_bytes + (filter_warp * kWarpSize + lane) * 16);
    for (int step = 0; step < q.stage_steps; ++step) {
      Kernel::multiply_step(q, row_pitch, accumulators, patch + strips + step * kStepBytes,
                            stage_weights + static_cast<uint32_t>(step * step_bytes));
    }
    block_barrier();  // before the stage is overwritten
  }
  copy_wait<0>();

  // Epilogue: lane l holds strip l / 4, filters 2 (l % 4) and the next of each 16 x 8 accumulator.
#pragma unroll
  for (int m = 0; m < kStripPointTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int64_t point = 0;
      const bool inside = place.result_point(q.strips, first_strip + lane / 4, 2 * m + half,
                                             q.result.strides[0], q.result.strides + 2, point);
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int filter = ((filter_tile * kStripFilterWarps + filter_warp) * 2 + t) * 8 + lane % 4 * 2;
        float left[4], right[4];
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          left[s] = accumulators[s][m][t][2 * half];
          right[s] = accumulators[s][m][t][2 * half + 1];
        }
        if (inside && filter < q.filters) q.store<Storage>(group, filter, point, left, right);
      }
    }
  }
}

}  // namespace symconv::cuda
