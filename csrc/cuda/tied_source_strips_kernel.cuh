// Convolution whose source is tied, for three taps along v: as tied_source_kernel.cuh, but from tiles of
// strips (strips.h), so that every row of the patch is loaded once for the three taps along v that read it.
//
// M: 64 points of the result a warp, eight strips. N: 64 channels of the result a warp. A thread block has as
// many warps along each as its launch says.
//
// For one parity of a block's fold, the taps along h are folded first, into columns of ten rows; of each, the
// fold along v then makes the coefficients of the eight points below each other.
//
// Shared memory: [position offsets][stage 0][stage 1]; a stage is the patch, and the weights of every 64
// channels.
#pragma once

#include "strip_iterator.cuh"
#include "tied_source_kernel.cuh"

namespace symconv::cuda {

constexpr int kMostStripColumns = 64;  // of all parities together

// Taps along h that are folded into one column, one or two, and what the column is multiplied with.
struct FoldedColumn {
  int taps;
  int offset[2];      // bytes of the patch
  int sign[2];        // of the fold
  int weights, next;  // of the column's first coefficient along v, and from one to the next: in coefficients
};

// The coefficients along v of one parity.
enum class AlongV {
  kEven,   // the middle tap, and the sum of the outer ones
  kOdd,    // the difference of the outer ones
  kPlain,  // three taps, which are not folded
};

struct TiedSourceStripsArguments : TiedSourceOperands {
  StripGeometry strips;
  int channel_warps;  // 64s of channels of a block
  int weight_bytes;   // of 64 channels, in a stage
  AlongV along_v[kMostParities];
  int first_column[kMostParities + 1];
  FoldedColumn columns[kMostStripColumns];
};

template <typename T, int Run>
struct TiedSourceStrips {
  using Column = StripColumn<T, Run>;
  using Value = typename Column::Value;
  using Element = TileElement<T>;
  using Storage = typename Element::Storage;
  static constexpr int kPairs = kTiedSourceChannelTiles / 2;
  static constexpr int kCoefficientBytes = kPairs * kWarpSize * 16;
  using Accumulators = float[kStripPointTiles][kTiedSourceChannelTiles][4];

  // One coefficient of all points; `value(point, half)` is that of a point of the strips.
  template <typename Get>
  static __device__ __forceinline__ void multiply(Accumulators& accumulators, SharedAddress weights,
                                                  Get&& value) {
    uint32_t a[kStripPointTiles][4];
#pragma unroll
    for (int m = 0; m < kStripPointTiles; ++m) Column::operand(a[m], m, value);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const Word4 b = load_shared<Word4>(weights + pair * kWarpSize * 16);
      const uint32_t low[2] = {b.word[0], b.word[1]}, high[2] = {b.word[2], b.word[3]};
#pragma unroll
      for (int m = 0; m < kStripPointTiles; ++m) {
        mma<T>(accumulators[m][2 * pair], a[m], low);
        mma<T>(accumulators[m][2 * pair + 1], a[m], high);
      }
    }
  }

  // One parity, one step of channels.
  template <AlongV V>
  static __device__ __forceinline__ void multiply_columns(const TiedSourceStripsArguments& q, int parity,
                                                          int row_pitch, Accumulators& accumulators,
                                                          SharedAddress patch, SharedAddress weights) {
    for (int j = q.first_column[parity]; j < q.first_column[parity + 1]; ++j) {
      const FoldedColumn& from = q.columns[j];
      Column column = {};
      for (int t = 0; t < from.taps; ++t) {
        const uint32_t factor = Element::factor(from.sign[t], from.taps - 1);
        Column::load(patch + static_cast<SharedAddress>(from.offset[t]), row_pitch,
                     [&](int row, int half, uint32_t word) {
                       column.rows[row][half] = column.rows[row][half].plus(word, factor);
                     });
      }
      const SharedAddress first = weights + from.weights * kCoefficientBytes;
      const int next = from.next * kCoefficientBytes;
      if constexpr (V == AlongV::kEven) {
        multiply(accumulators, first, [&](int point, int half) { return column.tap(point, half, 1); });
        multiply(accumulators, first + next,
                 [&](int point, int half) { return column.fold(point, half).even; });
      } else if constexpr (V == AlongV::kOdd) {
        multiply(accumulators, first, [&](int point, int half) { return column.fold(point, half).odd; });
      } else {
#pragma unroll
        for (int tap = 0; tap < kStripTaps; ++tap) {
          multiply(accumulators, first + tap * next,
                   [&](int point, int half) { return column.tap(point, half, tap); });
        }
      }
    }
  }
};

// `Run`: the strips', 7 or 8.
template <typename T, int Run>
__global__ void __launch_bounds__(kMostStripWarps* kWarpSize, 1)
    tied_source_strips_kernel(const TiedSourceStripsArguments q) {
  using Kernel = TiedSourceStrips<T, Run>;
  using Storage = typename Kernel::Storage;
  SYMCONV_DYNAMIC_SHARED(memory);
  const int lane = lane_id(), warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int first_strip = warp / q.channel_warps * kWarpStrips, channel_warp = warp % q.channel_warps;
  const SharedAddress position_table = shared_address(memory);
  const SharedAddress stage0 = position_table + q.strips.padded_positions() * 4;

  int64_t tile = blockIdx.x;
  const int block_tiles = (q.tiles_per_group + q.channel_warps - 1) / q.channel_warps;
  const int first_channel_tile =
      static_cast<int>(tile % static_cast<unsigned>(block_tiles)) * q.channel_warps;
  tile /= static_cast<unsigned>(block_tiles);
  const int64_t group = blockIdx.y;
  const StripPlace place(q.strips, tile);

  fill_position_table(q.strips, place, q.source, position_table);
  block_barrier();

  const Storage* source =
      static_cast<const Storage*>(q.source.data) + place.source_offset(q.strips, q.source, group);

  auto fetch = [&](int stage, const StageCursor& at) {
    if (stage < q.stage_count) {
      const SourceParity& parity = q.parity[at.parity];
      const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % kStripStages * q.stage_bytes);
      fetch_patch<Storage>(q.strips, position_table, source + parity.channel,
                           at.step * Kernel::Element::kStepChannels, parity.channels, q.stage_steps, patch,
                           q.row_bytes);
      const int step_words = parity.coefficients * Kernel::kCoefficientBytes / 16;
      for (int w = 0; w < q.channel_warps && first_channel_tile + w < q.tiles_per_group; ++w) {
        const Word4* from = q.weights + parity.weights +
                            (group * q.tiles_per_group + first_channel_tile + w) * parity.tile_weights +
                            static_cast<int64_t>(at.step) * step_words;
        fetch_words(from, q.stage_steps * step_words,
                    patch + static_cast<uint32_t>(q.patch_bytes + w * q.weight_bytes));
      }
    }
    copy_commit();
  };

  const int row_pitch = q.strips.columns * q.row_bytes;
  const SharedAddress strips = Kernel::Column::address(
      lane, place.column(q.strips, first_strip + lane % kWarpStrips), q.row_bytes, row_pitch);
  const int channel_tile = first_channel_tile + channel_warp;
  const bool has_channels = channel_tile < q.tiles_per_group;

  typename Kernel::Accumulators accumulators = {};
  StageCursor next, at;
  fetch(0, next);
  next.advance(q);
  for (int stage = 0; stage < q.stage_count; ++stage) {
    fetch(stage + 1, next);
    copy_wait<1>();
    next.advance(q);
    block_barrier();
    const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % kStripStages * q.stage_bytes);
    const SharedAddress stage_weights =
        patch + static_cast<uint32_t>(q.patch_bytes + channel_warp * q.weight_bytes + lane * 16);
    const int step_bytes = q.parity[at.parity].coefficients * Kernel::kCoefficientBytes;
    for (int step = 0; has_channels && step < q.stage_steps; ++step) {
      const SharedAddress points = patch + strips + static_cast<uint32_t>(step * kStepBytes);
      const SharedAddress weights = stage_weights + static_cast<uint32_t>(step * step_bytes);
      switch (q.along_v[at.parity]) {
        case AlongV::kEven:
          Kernel::template multiply_columns<AlongV::kEven>(q, at.parity, row_pitch, accumulators, points,
                                                           weights);
          break;
        case AlongV::kOdd:
          Kernel::template multiply_columns<AlongV::kOdd>(q, at.parity, row_pitch, accumulators, points,
                                                          weights);
          break;
        case AlongV::kPlain:
          Kernel::template multiply_columns<AlongV::kPlain>(q, at.parity, row_pitch, accumulators, points,
                                                            weights);
          break;
      }
    }
    at.advance(q);
    block_barrier();  // before the stage is overwritten
  }
  copy_wait<0>();
  if (!has_channels) return;

#pragma unroll
  for (int m = 0; m < kStripPointTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int64_t point = 0;
      const bool inside = place.result_point(q.strips, first_strip + lane / 4, 2 * m + half,
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
