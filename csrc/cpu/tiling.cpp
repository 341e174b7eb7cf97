// Choice of tiles, chunks and pieces: see tiling.h.
#include "tiling.h"

#include <algorithm>
#include <limits>

namespace symconv::cpu {
namespace {

constexpr int64_t kStagedPlanes = 64;  // of a chunk, where a piece does not need more
// Columns of a piece, at least: with fewer, what is set up for each of its tap sets weighs most.
constexpr int64_t kPieceColumns = 8;

int64_t most_columns(const Convolution& c) {
  int64_t most = 1;
  for (const Block& b : c.columns) most = std::max(most, b.orbits);
  return most;
}

// Points of a row that a tile takes: all, unless they are many.
int64_t width(int64_t points, int64_t most) {
  return points <= most ? points : ceil_div(points, ceil_div(points, most));
}

// At stride 1 a panel can run through the padding between rows, so that it is folded as a whole; worth it
// where that padding is at most an eighth of what is computed.
bool flat(const Convolution& c, int64_t width) {
  const int64_t pitch = width + (c.kernel[2] - 1) * c.dilation[2];
  const int64_t rows_shared = (c.kernel[1] - 1) * c.dilation[1];
  return c.taps() > 0 && c.stride[1] == 1 && c.stride[2] == 1 && pitch * 8 <= width * 9 && rows_shared < 4;
}

}  // namespace

Schedule schedule(const Convolution& c, int lanes, int vectors, int rows, int64_t l1_bytes, int64_t l2_bytes,
                  int64_t element_bytes, int threads) {
  const int64_t panel = static_cast<int64_t>(lanes) * vectors, taps = std::max<int64_t>(1, c.taps());
  Schedule s{};
  s.vectors = vectors;

  // The weights' side. It must not depend on extents or threads: packed weights hold for every input.
  // With few rows the fold weighs most: its results should stay in L1 until the GEMM reads them. With many
  // rows the GEMM does, and longer sums load and store its accumulators less often.
  const int64_t column_bytes = taps * panel * element_bytes;
  const int64_t piece_bytes = c.row_filters() <= 32 ? l1_bytes * 6 / 10 : l1_bytes * 12 / 10;
  s.piece_columns = std::max<int64_t>(kPieceColumns, piece_bytes / column_bytes);
  int64_t copies = 1;
  for (const Block& b : c.columns) copies = std::max<int64_t>(copies, b.size());
  const int64_t columns = std::max(kStagedPlanes / copies / s.piece_columns, int64_t{1}) * s.piece_columns;
  const int64_t most = most_columns(c);
  s.tiling.columns = ceil_div(most, ceil_div(most, columns));  // equal chunks

  // The points' side. A tile's accumulators should stay in L2.
  const int64_t most_points =
      std::clamp<int64_t>(l2_bytes / 2 / (c.row_channels * element_bytes), panel, 8 * panel);
  s.tiling.width = width(c.output[2], std::max<int64_t>(most_points, 2 * panel));
  s.tiling.flat = flat(c, s.tiling.width);
  const int64_t width_tiles = ceil_div(c.output[2], s.tiling.width), row_count = c.output_rows();
  // Cost of a number of rows, in vector operations on the slowest thread: the GEMM and the fold of the tile's
  // points, rounded up to vectors, and staging, with its halo.
  const double work = static_cast<double>(c.row_filters()) * c.column_filters() * taps;
  const double fold_work = 2.5 * c.column_filters() * taps;
  const double stage_work = 1.5 * c.column_channels * c.kernel[0];
  double best = std::numeric_limits<double>::infinity();
  s.tiling.rows = 1;
  for (int64_t r = 1; r <= row_count && (r == 1 || r * s.tiling.width <= most_points); ++r) {
    const int64_t tiles = ceil_div(row_count, r) * width_tiles * c.groups;
    const double turns = static_cast<double>(ceil_div(tiles, threads));
    // A last panel of a single vector keeps the GEMM waiting for weights: it takes as long as 1.3.
    const int64_t whole_vectors = ceil_div(r * s.tiling.width, lanes);
    const double vectors_used =
        static_cast<double>(whole_vectors) + (whole_vectors % vectors == 1 ? 0.3 : 0.0);
    const double staged_rows =
        static_cast<double>((r - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1);
    const double staged_vectors = static_cast<double>(ceil_div(s.tiling.width * c.stride[2], lanes));
    const double cost =
        turns * (vectors_used * (work / 2 + fold_work) + staged_rows * stage_work * staged_vectors + 300.0);
    if (cost < best) {
      best = cost;
      s.tiling.rows = r;
    }
  }
  const int64_t tiles = ceil_div(row_count, s.tiling.rows) * width_tiles * c.groups;
  int64_t panels = 1;
  for (const Block& b : c.rows) panels = std::max(panels, ceil_div(b.orbits, static_cast<int64_t>(rows)));
  s.row_splits = tiles >= threads ? 1 : std::clamp<int64_t>(threads / tiles, 1, panels);
  return s;
}

WgradSchedule wgrad_schedule(const Convolution& c, int lanes, int64_t l2_bytes, int64_t element_bytes,
                             int threads) {
  const int64_t taps = std::max<int64_t>(1, c.taps()), most = most_columns(c), rows = c.output_rows();
  // Points whose products are summed in one chain: fewer would load and store the sums more often, more would
  // cost accuracy in float32.
  constexpr int64_t kSummed = 64;
  WgradSchedule s{};
  s.tiling.flat = false;  // points between rows would have to count for nothing
  // Vector operations per point and tap, with either side in the lanes.
  int64_t column_vectors = 0;
  for (const Block& b : c.columns) column_vectors += ceil_div(b.orbits, lanes);
  s.column_lanes = c.row_filters() * column_vectors <= ceil_div(c.row_filters(), lanes) * c.column_filters();
  if (!s.column_lanes) {
    constexpr int64_t kPoints = 224;
    s.tiling.width = width(c.output[2], kPoints);
    s.tiling.rows = std::clamp<int64_t>(kPoints / s.tiling.width, 1, std::max<int64_t>(1, rows));
    const int64_t points = ceil_div(s.tiling.rows * s.tiling.width, lanes) * lanes;
    const int64_t column_bytes = taps * points * element_bytes;
    const int64_t columns = std::clamp<int64_t>(l2_bytes / 2 / column_bytes, 1, most);
    s.tiling.columns = ceil_div(most, ceil_div(most, columns));
    s.piece_points = kSummed;
    return s;
  }
  // Parity classes of two vectors at least, where there are as many: those of one leave the micro-tile
  // waiting for loads.
  const int64_t vectors = ceil_div(most, lanes), at_once = std::max<int64_t>(1, 18 / taps);
  s.tiling.columns = ceil_div(vectors, ceil_div(vectors, at_once)) * lanes;
  const int64_t point_bytes = taps * s.tiling.columns * element_bytes;
  s.piece_points = std::clamp<int64_t>(l2_bytes / 4 / point_bytes, 16, kSummed);
  // A tile's slots should stay in L2.
  const int64_t slots_bytes = std::max<int64_t>(1, c.fold().classes() * c.row_filters() * element_bytes);
  const int64_t most_points = std::clamp<int64_t>(l2_bytes / 4 / slots_bytes, 256, 512);
  s.tiling.width = width(c.output[2], most_points);
  // As many tiles as threads, or a multiple of that.
  const int64_t row_tiles = ceil_div(ceil_div(rows * s.tiling.width, most_points), threads) * threads;
  s.tiling.rows = std::clamp<int64_t>(ceil_div(rows, std::max<int64_t>(1, row_tiles)), 1,
                                      std::max<int64_t>(1, most_points / s.tiling.width));
  const int64_t points = s.tiling.rows * s.tiling.width;
  s.piece_points =
      std::max<int64_t>(1, ceil_div(points, std::max<int64_t>(1, ceil_div(points, s.piece_points))));
  return s;
}

}  // namespace symconv::cpu
