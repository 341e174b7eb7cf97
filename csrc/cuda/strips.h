// Tiles of strips, and the patch that one needs: for 2-D convolutions of stride 1 with three taps along v.
//
// A strip is eight result points of one column of a map. A run of eight, or of seven, lie below each other,
// so that ten (nine) rows of the source serve the three taps along v of them all, and what is loaded for one
// point is there for its neighbours. The eighth point of a strip whose run is seven lies elsewhere and has
// three rows to itself: maps of 7, 14, 28 rows are then cut without waste.
//
// A map is cut into bands as high as a run. All images' bands are the lines of strips; of every eight bands
// of seven rows, the last has no line of its own: its row i gives the eighth points of the line i of the
// group. Strips are numbered along h and then over the lines. A tile is a run of strips, wherever it begins,
// so that only the last tile of all is not full. A warp takes eight strips.
//
// The patch holds, row by row, the columns that the tile's strips read. From the last strip of a line to the
// first of the next it skips the taps' reach rounded up to eight columns: the eight strips of a warp then lie
// in different banks wherever a line ends.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "../common/problem.h"
#include "packed_source.h"

namespace symconv::cuda {

constexpr int kStripPoints = 8, kStripTaps = 3;
constexpr int kWarpStrips = 8;
constexpr int kStripStages = 2;
// Warps of a block that takes strips: these or half of them, so that each quarter of a multiprocessor has the
// same work.
constexpr int kMostStripWarps = 8;

// The rows of a strip whose first `Run` points lie below each other.
SYMCONV_HD constexpr int strip_rows(int run) {
  return run == kStripPoints ? kStripPoints + kStripTaps - 1 : run + kStripTaps - 1 + kStripTaps;
}
// Which of them the first tap of a point reads.
SYMCONV_HD constexpr int strip_row(int run, int point) { return point < run ? point : run + kStripTaps - 1; }

// ldmatrix loads two rows of a strip at a time. Those that the middle taps of two neighbouring points read
// come together, so that they are an operand of mma as they are; then the others. The i-th row of a load:
SYMCONV_HD constexpr int loaded_row(int run, int load, int i) {
  return load < kStripPoints / 2    ? strip_row(run, 2 * load + i) + 1
         : load == kStripPoints / 2 ? i * (run + 1)
                                    : run + kStripTaps - 1 + 2 * i;
}

struct StripGeometry {
  int strips;                // of a tile
  int run;                   // 7 or 8
  int width, height;         // of the result
  int bands;                 // of an image
  int lines;                 // of strips
  int pitch;                 // columns from one line to the next
  int columns;               // of the patch
  int reach;                 // columns that a strip reads beyond its first
  int input[2], padding[2];  // along v, h
  int64_t batch;

  SYMCONV_HD int rows() const { return strip_rows(run); }
  SYMCONV_HD int padded_positions() const { return (rows() * columns + 15) / 16 * 16; }
  SYMCONV_HD int64_t tile_count() const {
    return (static_cast<int64_t>(lines) * width + strips - 1) / strips;
  }

  // The image and the row of the result where a point of a line lies; maybe one that does not exist.
  SYMCONV_HD void point(int line, int of_strip, int& n, int& v) const {
    int band = line, row = of_strip;
    if (run < kStripPoints) {
      const int group = line / run, of_group = line % run;
      band = group * (run + 1) + (of_strip < run ? of_group : run);
      if (of_strip == run) row = of_group;
    }
    n = band / bands;
    v = band % bands * run + row;
  }
};

// Whether the convolution can be cut into strips.
bool has_strips(const Problem& shape);
StripGeometry strip_geometry(const Problem& shape, int run, int strips);
// Whether the offsets of a patch fit in 32 bits.
bool offsets_fit(const StripGeometry& geometry, const SourceView& source);

// Steps of a stage, a divisor of `most_steps`; 0 if a stage of one does not fit. Blocks that have room beside
// each other, by their registers, should have it by their shared memory, of `good` bytes; `most` is the
// limit. shared_bytes(steps) is what a block needs.
template <typename SharedBytes>
int stage_steps_of(int most_steps, int warps, int64_t good, int64_t most, SharedBytes&& shared_bytes) {
  for (const int64_t limit : {warps < kMostStripWarps ? good : most, most}) {
    for (int steps = most_steps; steps > 0; --steps) {
      if (most_steps % steps == 0 && shared_bytes(steps) <= limit) return steps;
    }
  }
  return 0;
}

}  // namespace symconv::cuda
