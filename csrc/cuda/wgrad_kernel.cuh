// Weight gradient of a convolution with a tied result, on tensor cores.
//
// The gradient of coefficient (p, t) of orbit r and source channel c is the sum over the result's points of
// slot p of the result's gradient times the folded patch: for every tap orbit a product of M = orbits, N =
// source channels, K = points. A thread block takes one tap orbit, 32 or 64 orbits, 64 channels and every
// splits-th tile of points; each warp half of the orbits and half of the channels, with one set of
// accumulators for every coefficient of the tap orbit. Both operands lie in shared memory with points as
// rows, so ldmatrix transposes them on the way; the taps are folded in registers. The partial sums of the
// splits go to scratch memory, and a second kernel adds them in a fixed order, unfolds them and stores.
//
// Shared memory: [what lies at each position][stage 0][stage 1]; a stage is the patch and then the planes of
// slots, rows of 64 numbers and a pad that leads neighbours to different banks.
#pragma once

#include "epilogue.cuh"
#include "folded_weights.cuh"
#include "tile_iterator.cuh"

namespace symconv::cuda {

constexpr int kWgradChannels = 64;  // of the source, in a tile

// Rows of 64 numbers: 16 bytes more make eight neighbours start in different banks (ldmatrix), 32 bytes more
// make the words of four neighbours lie in different banks (tf32, read word by word).
template <typename T>
constexpr int kWgradRowBytes = kWgradChannels * int{sizeof(typename TileElement<T>::Storage)} +
                               (sizeof(typename TileElement<T>::Storage) == 2 ? 16 : 32);

// 16s of orbits of a warp, for a tap orbit paired along `axes` axes.
SYMCONV_HD constexpr int wgrad_row_tiles(int axes) { return axes == 3 ? 1 : 2; }
// Orbits in a tile.
SYMCONV_HD constexpr int wgrad_orbits(int axes) { return 32 * wgrad_row_tiles(axes); }

struct WgradArguments {
  TileGeometry tile;
  TapOrbits taps;
  int first_coefficient, tap_orbits;  // of the tap orbits of this launch
  SourceView source;
  SourceView slots;      // planes of the result's gradient
  int plane[kMaxOrbit];  // channel of the plane of each parity within the pairing, in a group
  int plane_channels;
  int orbits, channels;  // of the block, of the source, in a group
  int orbit_tiles, channel_tiles;
  int splits, stages, stage_bytes, patch_bytes, points;
  float* partial;  // [split][group][coefficient][orbit][channel]
  int64_t split_size, group_size;
};

// Four registers of operands that lie with K along the rows: those of A for 16 orbits, or of B for two groups
// of 8 channels.
template <typename T>
struct TransposedLoad {
  static constexpr int kStepPoints = 16;
  // The row (0..15) and the column that this lane gives to ldmatrix.
  static __device__ __forceinline__ int a_row(int lane) { return lane / 16 * 8 + lane % 8; }
  static __device__ __forceinline__ int a_column(int lane) { return lane / 8 % 2 * 8; }
  static __device__ __forceinline__ int b_row(int lane) { return lane / 8 % 2 * 8 + lane % 8; }
  static __device__ __forceinline__ int b_column(int lane) { return lane / 16 * 8; }
  static constexpr int kRows = 1;  // addresses of a lane

  static __device__ __forceinline__ void a(uint32_t (&r)[4], const SharedAddress (&rows)[kRows],
                                           uint32_t offset) {
    load_matrices_transposed<4>(r, rows[0] + offset);
  }
  static __device__ __forceinline__ void b(uint32_t (&r)[4], const SharedAddress (&rows)[kRows],
                                           uint32_t offset) {
    load_matrices_transposed<4>(r, rows[0] + offset);
  }
};

// tf32 words cannot be transposed by ldmatrix: lane 4 g + t reads orbit (or channel) g of points t and t + 4
// itself.
template <>
struct TransposedLoad<TensorFloat32> {
  static constexpr int kStepPoints = 8;
  static constexpr int kRows = 2;
  static __device__ __forceinline__ int a_row(int lane) { return lane % 4; }
  static __device__ __forceinline__ int a_column(int lane) { return lane / 4; }
  static __device__ __forceinline__ int b_row(int lane) { return lane % 4; }
  static __device__ __forceinline__ int b_column(int lane) { return lane / 4; }

  static __device__ __forceinline__ void a(uint32_t (&r)[4], const SharedAddress (&rows)[kRows],
                                           uint32_t offset) {
    for (int i = 0; i < 4; ++i)
      r[i] = to_tf32(word_to_float(load_shared<uint32_t>(rows[i / 2] + offset + i % 2 * 32)));
  }
  static __device__ __forceinline__ void b(uint32_t (&r)[4], const SharedAddress (&rows)[kRows],
                                           uint32_t offset) {
    for (int i = 0; i < 4; ++i) r[i] = load_shared<uint32_t>(rows[i % 2] + offset + i / 2 * 32);
  }
};

SYMCONV_HD constexpr uint32_t pack16(int low, int high) {
  return static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16;
}

template <typename T, int Axes>
__global__ void __launch_bounds__(kTileThreads, 2) wgrad_kernel(const WgradArguments q) {
  using Element = TileElement<T>;
  using Storage = typename Element::Storage;
  using Load = TransposedLoad<T>;
  constexpr int kTaps = 1 << Axes, kRowTiles = wgrad_row_tiles(Axes), kColumnTiles = 4;
  // Eight taps of 32 channels and the accumulators do not fit in the registers: 16 channels at a time then.
  constexpr int kAtOnce = Axes == 3 ? 1 : 2;
  constexpr int kRowBytes = kWgradRowBytes<T>, kVector = 16 / sizeof(Storage),
                kRowVectors = kWgradChannels / kVector;
  constexpr int kSlotVectors = wgrad_orbits(Axes) / kVector;
  SYMCONV_DYNAMIC_SHARED(memory);
  const int thread = static_cast<int>(threadIdx.x), lane = lane_id(), warp = thread / kWarpSize;
  const SharedAddress position_table = shared_address(memory);
  const SharedAddress stage0 = position_table + (q.tile.positions + 1) / 2 * 16;

  unsigned rest = blockIdx.x;
  const int channel0 = static_cast<int>(rest % static_cast<unsigned>(q.channel_tiles)) * kWgradChannels;
  rest /= static_cast<unsigned>(q.channel_tiles);
  const int orbit0 = static_cast<int>(rest % static_cast<unsigned>(q.orbit_tiles)) * wgrad_orbits(Axes);
  const int coefficient =
      q.first_coefficient + static_cast<int>(rest / static_cast<unsigned>(q.orbit_tiles)) * kTaps;
  const int64_t group = blockIdx.y;

  for (int i = thread; i < q.tile.positions; i += kTileThreads) {
    int e[4];
    q.tile.source(i, e);
    store_shared(position_table + 8 * i, Word2{{pack16(e[0], e[1]), pack16(e[2], e[3])}});
  }
  block_barrier();

  const Storage* source = static_cast<const Storage*>(q.source.data) + group * q.source.group + channel0;
  const Storage* slots = static_cast<const Storage*>(q.slots.data) + group * q.slots.group + orbit0;

  // Eight neighbouring lanes copy 128 bytes of one row.
  auto fetch = [&](int stage, int64_t tile) {
    if (tile < q.tile.tile_count()) {
      const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % q.stages * q.stage_bytes);
      const TilePlace place(q.tile, tile);
      const int row0 = thread / 8, vector0 = thread % 8;
      for (int i = row0; i < q.tile.positions; i += kTileThreads / 8) {
        const Word2 entry = load_shared<Word2>(position_table + 8 * i);
        const int e[4] = {static_cast<int>(entry.word[0] & 0xffff), static_cast<int>(entry.word[0] >> 16),
                          static_cast<int>(entry.word[1] & 0xffff), static_cast<int>(entry.word[1] >> 16)};
        bool inside = place.origin[0] + e[0] < q.tile.batch;
        int64_t offset = (place.origin[0] + e[0]) * q.source.strides[0];
        for (int d = 0; d < kAxes; ++d) {
          const int x = place.first(q.tile, d) + e[1 + d];
          inside = inside && x >= 0 && x < q.tile.input[d];
          offset += x * q.source.strides[1 + d];
        }
        for (int v = vector0; v < kRowVectors; v += 8) {
          const bool valid = inside && channel0 + v * kVector < q.source.channels;
          copy_async<16>(patch + static_cast<uint32_t>(i * kRowBytes + v * 16),
                         valid ? source + offset + v * kVector : source, valid);
        }
      }
      for (int i = row0; i < q.points; i += kTileThreads / 8) {
        int64_t offset = 0;
        const bool inside = place.result_point(q.tile, i, q.slots.strides[0], q.slots.strides + 1, offset);
        for (int j = 0; j < kTaps; ++j) {
          const SharedAddress row =
              patch + static_cast<uint32_t>(q.patch_bytes + (j * q.points + i) * kRowBytes);
          for (int v = vector0; v < kSlotVectors; v += 8) {
            const bool valid = inside && orbit0 + v * kVector < q.plane_channels;
            copy_async<16>(row + static_cast<uint32_t>(v * 16),
                           valid ? slots + offset + q.plane[j] + v * kVector : slots, valid);
          }
        }
      }
    }
    copy_commit();
  };

  uint32_t tap_offsets[kTaps];
#pragma unroll
  for (int j = 0; j < kTaps; ++j) {
    const Coefficient c = q.taps.coefficient(coefficient + j);
    tap_offsets[j] = static_cast<uint32_t>(q.tile.tap_offset(c.tap, c.parity) * kRowBytes);
  }

  float accumulators[kTaps][kRowTiles][kColumnTiles][4] = {};
  const uint32_t warp_orbits = static_cast<uint32_t>(warp / 2 * 16 * kRowTiles * int{sizeof(Storage)});
  const uint32_t warp_channels = static_cast<uint32_t>(warp % 2 * 32 * int{sizeof(Storage)});
  int64_t tile = blockIdx.z;
  if (q.stages == 2) fetch(0, tile);
  for (int stage = 0; tile < q.tile.tile_count(); ++stage, tile += q.splits) {
    if (q.stages == 2) {
      fetch(stage + 1, tile + q.splits);
      copy_wait<1>();
    } else {
      fetch(stage, tile);
      copy_wait<0>();
    }
    block_barrier();
    const SharedAddress patch = stage0 + static_cast<uint32_t>(stage % q.stages * q.stage_bytes);
    for (int k = 0; k < q.points; k += Load::kStepPoints) {
      SharedAddress rows_a[Load::kRows], rows_b[Load::kRows];
      for (int i = 0; i < Load::kRows; ++i) {
        rows_a[i] = patch + warp_orbits +
                    static_cast<uint32_t>(q.patch_bytes + (k + i * 4 + Load::a_row(lane)) * kRowBytes +
                                          Load::a_column(lane) * int{sizeof(Storage)});
        int o[4];
        q.tile.point(k + i * 4 + Load::b_row(lane), o);
        rows_b[i] = patch + warp_channels +
                    static_cast<uint32_t>(q.tile.position(o) * kRowBytes +
                                          Load::b_column(lane) * int{sizeof(Storage)});
      }
#pragma unroll
      for (int first = 0; first < kColumnTiles / 2; first += kAtOnce) {
        if constexpr (Axes == 3)
          warp_barrier();  // keeps the compiler from loading ahead into registers that are not there
        uint32_t b[kTaps][kAtOnce][4];
#pragma unroll
        for (int n = 0; n < kAtOnce; ++n) {
#pragma unroll
          for (int j = 0; j < kTaps; ++j) {
            Load::b(b[j][n], rows_b,
                    tap_offsets[j] + static_cast<uint32_t>((first + n) * 16 * int{sizeof(Storage)}));
          }
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            typename Element::Value values[kTaps];
#pragma unroll
            for (int j = 0; j < kTaps; ++j) values[j] = Element::template value<Axes>(b[j][n][r]);
            hadamard<kTaps>(values);
#pragma unroll
            for (int j = 0; j < kTaps; ++j) b[j][n][r] = values[j].operand();
          }
        }
#pragma unroll
        for (int j = 0; j < kTaps; ++j) {
#pragma unroll
          for (int m = 0; m < kRowTiles; ++m) {
            uint32_t a[4];
            Load::a(a, rows_a,
                    static_cast<uint32_t>(j * q.points * kRowBytes + m * 16 * int{sizeof(Storage)}));
#pragma unroll
            for (int n = 0; n < kAtOnce; ++n) {
              const uint32_t low[2] = {b[j][n][0], b[j][n][1]}, high[2] = {b[j][n][2], b[j][n][3]};
              mma<T>(accumulators[j][m][2 * (first + n)], a, low);
              mma<T>(accumulators[j][m][2 * (first + n) + 1], a, high);
            }
          }
        }
      }
    }
    block_barrier();  // before the stage is overwritten
  }
  copy_wait<0>();

  float* partial = q.partial + static_cast<int64_t>(blockIdx.z) * q.split_size + group * q.group_size;
#pragma unroll
  for (int j = 0; j < kTaps; ++j) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int orbit = orbit0 + warp / 2 * 16 * kRowTiles + m * 16 + e / 2 * 8 + lane / 4;
          const int channel = channel0 + warp % 2 * 32 + n * 8 + lane % 4 * 2 + e % 2;
          if (orbit < q.orbits && channel < q.channels) {
            partial[(static_cast<int64_t>(coefficient + j) * q.orbits + orbit) * q.channels + channel] =
                accumulators[j][m][n][e];
          }
        }
      }
    }
  }
}

constexpr int kReduceThreads = 128;

struct WgradReduction {
  const float* partial;
  int splits;
  int64_t split_size, group_size;
  TapOrbits taps;
  int64_t orbits, channels, numbers;  // numbers: of the block's gradient in all groups
  WeightView weight;
  float slot_scale;  // what the slots were multiplied with
  Divisor channel, orbit, coefficient;
};

// One thread per number of the gradient: adds the splits in order, and of its tap orbit's coefficients what
// belongs to its tap.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads, 4) wgrad_reduce_kernel(WgradReduction s) {
  using Storage = typename TileElement<T>::Storage;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kReduceThreads + threadIdx.x;
  if (i >= s.numbers) return;
  int64_t channel = i;
  int64_t orbit = s.channel.divide(channel);
  int64_t index = s.orbit.divide(orbit);
  const int64_t group = s.coefficient.divide(index);
  const Coefficient c = s.taps.coefficient(static_cast<int>(index));
  const int64_t first = index - subset_index(c.paired, c.parity);
  float total = 0;
  for (int j = 0; j < c.terms(); ++j) {
    const float* from =
        s.partial + group * s.group_size + ((first + j) * s.orbits + orbit) * s.channels + channel;
    float sum = 0;
    for (int split = 0; split < s.splits; ++split) sum += from[split * s.split_size];
    total += sign(subset(c.paired, j), c.parity) > 0 ? sum : -sum;
  }
  total /= s.slot_scale;
  if (!TileElement<T>::kHalvesOnPatch) total /= static_cast<float>(c.terms());
  int64_t offset = group * s.weight.group + orbit * s.weight.result + channel * s.weight.source;
  for (int d = 0; d < kAxes; ++d) {
    offset += (c.parity & axis_bit(d) ? s.taps.kernel[d] - 1 - c.tap[d] : c.tap[d]) * s.weight.tap[d];
  }
  static_cast<Storage*>(s.weight.data)[offset] = Element<Storage>::store(total);
}

}  // namespace symconv::cuda
