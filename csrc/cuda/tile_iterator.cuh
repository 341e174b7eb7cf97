// Where a thread block's tile lies, and how the patch that it needs comes to shared memory: the implicit
// GEMM's gather.
#pragma once

#include "arch.cuh"
#include "packed_source.h"
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

// Starts the copies of `vectors` runs of 16 bytes of channels, an even number, from channel `first` of the
// `channels` that there are, for every position of the patch; zeros for what does not exist.
template <typename Storage, typename Geometry>
__device__ __forceinline__ void fetch_patch(const Geometry& g, SharedAddress table, const Storage* source,
                                            int first, int channels, int vectors, SharedAddress patch,
                                            int row_bytes) {
  constexpr int kVector = 16 / sizeof(Storage);
  // Eight neighbouring lanes copy the same channels of eight positions: all banks. The next eight copy the
  // channels beside: whole sectors by the warp. What the table says of a position serves all its copies.
  const int lanes = g.padded_positions() * 2;
  for (int i = static_cast<int>(threadIdx.x); i < lanes; i += static_cast<int>(blockDim.x)) {
    const int position = i / 16 * 8 + i % 8;
    const int32_t offset = load_shared<int32_t>(table + 4 * position);
    for (int vector = i / 8 % 2; vector < vectors; vector += 2) {
      const int channel = first + vector * kVector;
      const bool valid = offset != kOutside && channel < channels;
      copy_async<16>(patch + static_cast<uint32_t>(position * row_bytes + vector * 16),
                     valid ? source + offset + channel : source, valid);
    }
  }
}

// Starts the copies of `count` words side by side.
__device__ __forceinline__ void fetch_words(const Word4* from, int count, SharedAddress to) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x)) {
    copy_async<16>(to + static_cast<uint32_t>(i * 16), from + i, true);
  }
}

}  // namespace symconv::cuda
