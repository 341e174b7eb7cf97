// Where a thread block's tile of strips lies, and a warp's strips in registers.
#pragma once

#include "strips.h"
#include "tile_elements.cuh"
#include "tile_iterator.cuh"

namespace symconv::cuda {

// The first strip of tile number `tile`: its line (of a band of an image), and where it stands there.
struct StripPlace {
  int line, start;

  __device__ __forceinline__ StripPlace(const StripGeometry& g, int64_t tile) {
    const unsigned first = static_cast<unsigned>(tile) * static_cast<unsigned>(g.strips);
    line = static_cast<int>(first / static_cast<unsigned>(g.width));
    start = static_cast<int>(first % static_cast<unsigned>(g.width));
  }

  // The image that the tile's first strip lies in, and its offset in elements of the source.
  __device__ __forceinline__ int first_image(const StripGeometry& g) const {
    int n, v;
    g.point(line, 0, n, v);
    return n;
  }
  __device__ __forceinline__ int64_t source_offset(const StripGeometry& g, const SourceView& source,
                                                   int64_t group) const {
    return group * source.group + first_image(g) * source.strides[0];
  }
  // The column of the patch that the first tap of a strip of the tile reads.
  __device__ __forceinline__ int column(const StripGeometry& g, int strip) const {
    return (start + strip) / g.width * g.pitch + (start + strip) % g.width - start;
  }
  // Whether a point of a strip exists, and its offset where images lie `image` and points `strides`
  // (along z, v, h) elements apart.
  __device__ __forceinline__ bool result_point(const StripGeometry& g, int strip, int of_strip, int64_t image,
                                               const int64_t* strides, int64_t& offset) const {
    int n, v;
    g.point(line + (start + strip) / g.width, of_strip, n, v);
    offset = n * image + v * strides[1] + (start + strip) % g.width * strides[2];
    return n < g.batch && v < g.height;
  }
};

// Writes, for every position of the patch, its offset in elements from source_offset(), or kOutside.
__device__ __forceinline__ void fill_position_table(const StripGeometry& g, const StripPlace& place,
                                                    const SourceView& source, SharedAddress table) {
  const int first_image = place.first_image(g), run_rows = g.run + kStripTaps - 1;
  for (int i = static_cast<int>(threadIdx.x); i < g.padded_positions(); i += static_cast<int>(blockDim.x)) {
    const int row = i / g.columns, column = place.start + i % g.columns, along = column % g.pitch;
    const bool in_run = g.run == kStripPoints || row < run_rows;
    int n, v;
    g.point(place.line + column / g.pitch, in_run ? 0 : g.run, n, v);
    v += (in_run ? row : row - run_rows) - g.padding[0];
    const int h = along - g.padding[1];
    const bool inside = row < g.rows() && along < g.width + g.reach && n < g.batch && v >= 0 &&
                        v < g.input[0] && h >= 0 && h < g.input[1];
    const int64_t offset =
        (n - first_image) * source.strides[0] + v * source.strides[2] + h * source.strides[3];
    store_shared(table + 4 * i, inside ? static_cast<int32_t>(offset) : kOutside);
  }
}

// The rows of one column of taps of a warp's eight strips, a step of channels: row r of lane l are 4 bytes
// of strip l / 4, channels l % 4 of both halves of the step.
template <typename T, int Run>
struct StripColumn {
  using Element = TileElement<T>;
  using Value = typename Element::Value;
  static constexpr int kRows = strip_rows(Run);
  Value rows[kRows][2];

  // What this lane gives to ldmatrix: the bytes of the patch where the first row of a tap's column begins,
  // for the strip lane % 8, which lies at `column`, or the second row.
  static __device__ __forceinline__ SharedAddress address(int lane, int column, int row_bytes,
                                                          int row_pitch) {
    return static_cast<SharedAddress>(column * row_bytes + lane / 16 * 16) + second(lane, row_pitch);
  }
  // From the first to this lane's row, of two rows below each other.
  static __device__ __forceinline__ SharedAddress second(int lane, int row_pitch) {
    return static_cast<SharedAddress>(lane / 8 % 2 * row_pitch);
  }

  // use(row, half, word) for every word of the column.
  template <typename Use>
  static __device__ __forceinline__ void load(SharedAddress column, int row_pitch, Use&& use) {
    const SharedAddress to_second = second(lane_id(), row_pitch);
    unrolled<kRows / 2>([&](auto load) {
      constexpr int kLoad = decltype(load)::value;
      constexpr int kFirst = loaded_row(Run, kLoad, 0), kSecond = loaded_row(Run, kLoad, 1);
      uint32_t raw[4];
      load_matrices<4>(
          raw, column + static_cast<uint32_t>(kFirst * row_pitch) + (kSecond - kFirst - 1) * to_second);
#pragma unroll
      for (int r = 0; r < 4; ++r) use(r % 2 ? kSecond : kFirst, r / 2, raw[r]);
    });
  }

  // mma's A operand of points 2 m and 2 m + 1 of the eight strips; `value(point, half)` gives their Values.
  template <typename Get>
  static __device__ __forceinline__ void operand(uint32_t (&a)[4], int m, Get&& value) {
#pragma unroll
    for (int r = 0; r < 4; ++r) a[r] = value(2 * m + r % 2, r / 2).operand();
  }

  // What a tap along v reads for a point.
  __device__ __forceinline__ Value tap(int point, int half, int tap) const {
    return rows[strip_row(Run, point) + tap][half];
  }
  // The fold of the first and the third tap along v: their sum and their difference.
  struct Pair {
    Value even, odd;
  };
  __device__ __forceinline__ Pair fold(int point, int half) const {
    Value even = tap(point, half, 0), odd = tap(point, half, 2);
    // Every other point of a column shares the row that is multiplied by the halves with the one before.
    if (point / 2 % 2 == 0) {
      Element::template fold<1, true>(even, odd);
    } else {
      Element::template fold<1>(even, odd);
    }
    return {even, odd};
  }
};

constexpr int kStripPointTiles = kStripPoints / 2;  // 16s of points of a warp

}  // namespace symconv::cuda
