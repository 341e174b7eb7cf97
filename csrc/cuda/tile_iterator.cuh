// Where a thread block's tile lies, and how the patch that it needs comes to shared memory: the implicit
// GEMM's gather.
#pragma once

#include "packed_source.h"
#include "tile_elements.cuh"
#include "tile_geometry.h"

namespace symconv::cuda {

constexpr int kTileThreads = 128;
constexpr int32_t kOutside = INT32_MIN;  // position offset of a point outside the source

// The first result point of tile number `tile`, along (n, z, v, h).
struct TilePlace {
  int origin[4];

  __device__ __forceinline__ TilePlace(const TileGeometry& g, int64_t tile) {
    unsigned rest = static_cast<unsigned>(tile);
    for (int d = 3; d >= 0; --d) {
      const unsigned tiles = static_cast<unsigned>(g.tiles[d]);
      origin[d] = static_cast<int>(rest % tiles) << g.log2[d];
      rest /= tiles;
    }
  }

  // The source point that the first tap of the tile's first point reads; it may lie outside.
  __device__ __forceinline__ int first(const TileGeometry& g, int d) const {
    return origin[1 + d] * g.stride[d] - g.padding[d];
  }
  // Its offset in elements.
  __device__ __forceinline__ int64_t source_offset(const TileGeometry& g, const SourceView& source,
                                                   int64_t group) const {
    int64_t offset = group * source.group + origin[0] * source.strides[0];
    for (int d = 0; d < kAxes; ++d) offset += first(g, d) * source.strides[1 + d];
    return offset;
  }
  // Whether point `pixel` of the tile exists, and its offset where images lie `image` and points `strides`
  // elements apart.
  __device__ __forceinline__ bool result_point(const TileGeometry& g, int pixel, int64_t image,
                                               const int64_t* strides, int64_t& offset) const {
    int o[4];
    g.point(pixel, o);
    bool inside = origin[0] + o[0] < g.batch;
    offset = (origin[0] + o[0]) * image;
    for (int d = 0; d < kAxes; ++d) {
      inside = inside && origin[1 + d] + o[1 + d] < g.output[d];
      offset += (origin[1 + d] + o[1 + d]) * strides[d];
    }
    return inside;
  }
};

// Writes, for every position of the patch, its offset in elements from source_offset(), or kOutside.
__device__ __forceinline__ void fill_position_table(const TileGeometry& g, const TilePlace& place,
                                                    const SourceView& source, SharedAddress table) {
  for (int i = static_cast<int>(threadIdx.x); i < g.padded_positions(); i += kTileThreads) {
    int e[4];
    g.source(i, e);
    bool inside = i < g.positions && place.origin[0] + e[0] < g.batch;
    int64_t offset = e[0] * source.strides[0];
    for (int d = 0; d < kAxes; ++d) {
      const int x = place.first(g, d) + e[1 + d];
      inside = inside && x >= 0 && x < g.input[d];
      offset += e[1 + d] * source.strides[1 + d];
    }
    store_shared(table + 4 * i, inside ? static_cast<int32_t>(offset) : kOutside);
  }
}

constexpr int kMostStageSteps = 2;

// Starts the copies of `steps` steps of channels, from channel `first` of the `channels` that there are, for
// every position of the patch; zeros for what does not exist.
template <typename Storage, typename Geometry>
__device__ __forceinline__ void fetch_patch(const Geometry& g, SharedAddress table, const Storage* source,
                                            int first, int channels, int steps, SharedAddress patch,
                                            int row_bytes) {
  constexpr int kVector = 16 / sizeof(Storage);
  // Eight neighbouring lanes copy the same channels of eight positions: all banks. The next eight copy the
  // channels beside: whole sectors by the warp. What the table says of a position serves all its copies.
  const int thread = static_cast<int>(threadIdx.x), positions = static_cast<int>(blockDim.x) / 2;
  const int position = thread / 16 * 8 + thread % 8, vector = thread / 8 % 2;
  const int channel = first + vector * kVector;
  const Storage* channels_at = keep_here(source + channel);
  const SharedAddress end = table + 4 * g.padded_positions();
  SharedAddress to = patch + static_cast<uint32_t>(position * row_bytes + vector * 16);
#pragma unroll 1
  for (SharedAddress at = table + 4 * position; at < end; at += 4 * positions) {
    const int32_t offset = load_shared<int32_t>(at);
    const Storage* from = keep_here(channels_at + offset);  // not read from where that is kOutside
#pragma unroll
    for (int step = 0; step < kMostStageSteps; ++step) {
      const int next = step * 2 * kVector;
      if (step < steps)
        copy_async<16>(to + step * kStepBytes, from + next, offset != kOutside && channel + next < channels);
    }
    to += static_cast<uint32_t>(positions * row_bytes);
  }
}

// Starts the copies of `count` words side by side; a warp takes kRun times as many at a time as it has lanes.
__device__ __forceinline__ void fetch_words(const Word4* from, int count, SharedAddress to) {
  constexpr int kRun = 4;
  const int thread = static_cast<int>(threadIdx.x);
  const int first = (thread - lane_id()) * kRun + lane_id();
  from += first;
  to += static_cast<uint32_t>(first * 16);
#pragma unroll 1
  for (int left = count - first; left > 0; left -= kRun * static_cast<int>(blockDim.x)) {
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i * kWarpSize < left) copy_async<16>(to + i * kWarpSize * 16, from + i * kWarpSize, true);
    }
    from += kRun * blockDim.x;
    to += kRun * 16 * blockDim.x;
  }
}

}  // namespace symconv::cuda
