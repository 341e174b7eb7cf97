// Tiles of the result and the patch of the source that one needs, as it lies in shared memory.
//
// A tile is 2^points result points: 2^log2[0] images times 2^log2[1..3] points along z, v, h. The source
// points that its taps read form a box. Along a strided dimension the box is stored phase by phase (all
// points that are 0 modulo the stride, then all that are 1, ...), so that neighbours in the result read
// neighbours in shared memory for every tap: tap t of result point o is column  (t d mod s) * width + o + t d
// / s.
#pragma once

#include <cstdint>

#include "../common/problem.h"

namespace symconv::cuda {

struct TileGeometry {
  int log2[4];
  int tiles[4];      // tiles of the result along (n, z, v, h)
  int width[kAxes];  // columns of one phase
  int phases[kAxes];
  int positions;  // of the whole patch
  int input[kAxes], output[kAxes], kernel[kAxes], stride[kAxes], padding[kAxes], dilation[kAxes];
  int64_t batch;

  SYMCONV_HD int columns(int d) const { return phases[d] * width[d]; }
  // Positions that are copied: whole warps' worth, the ones beyond the patch as zeros.
  SYMCONV_HD int padded_positions() const { return (positions + 15) / 16 * 16; }
  SYMCONV_HD int64_t tile_count() const {
    return static_cast<int64_t>(tiles[0]) * tiles[1] * tiles[2] * tiles[3];
  }

  // Point `pixel` of a tile along (n, z, v, h); h is fastest.
  SYMCONV_HD void point(int pixel, int* o) const {
    for (int d = 3; d >= 0; --d) {
      o[d] = pixel & ((1 << log2[d]) - 1);
      pixel >>= log2[d];
    }
  }
  // Position in the patch of what the first tap of a point reads.
  SYMCONV_HD int position(const int* o) const {
    return ((o[0] * columns(0) + o[1]) * columns(1) + o[2]) * columns(2) + o[3];
  }
  // How many positions further tap `tap`, mirrored by reflection g, reads.
  SYMCONV_HD int tap_offset(const int64_t* tap, int g) const {
    int offset = 0;
    for (int d = 0; d < kAxes; ++d) {
      const int t = (g & axis_bit(d) ? kernel[d] - 1 - static_cast<int>(tap[d]) : static_cast<int>(tap[d])) *
                    dilation[d];
      offset = offset * columns(d) + t % stride[d] * (phases[d] > 1 ? width[d] : 0) + t / stride[d];
    }
    return offset;
  }
  // What lies at a position: the image within the tile and the source point relative to that of the tile's
  // first tap.
  SYMCONV_HD void source(int position, int* e) const {
    for (int d = kAxes - 1; d >= 0; --d) {
      const int c = position % columns(d);
      position /= columns(d);
      e[1 + d] = c % width[d] * stride[d] + c / width[d];
    }
    e[0] = position;
  }
};

// The tile of 2^points_log2 points with the fewest blocks, then with rows of eight, then of the smallest
// patch, among those whose patch has at most `max_positions`; false if there is none, or if a number does not
// fit.
bool choose_tile(const Problem& shape, int points_log2, int64_t max_positions, TileGeometry& geometry);

}  // namespace symconv::cuda
