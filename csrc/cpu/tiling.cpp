// Choice of tiles, chunks and pieces: see tiling.h.
#include "tiling.h"

#include <algorithm>
#include <limits>

namespace symconv::cpu {
namespace {

constexpr int64_t kStagedPlanes = 64;  // of a chunk, where a piece does not need more
constexpr int64_t kPiecePlanes = 256;  // of a piece, at most
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

// Whether the output is as large as the source and neighbours read neighbours: see Patch.
bool flat(const Convolution& c) {
  bool same = c.taps() > 0;
  for (int d = 0; d < kAxes; ++d) same = same && c.stride[d] == 1 && c.output[d] == c.source[d];
  return same;
}

// Cost of points, in vector operations: of the GEMM and the fold for each vector of them, and of staging.
struct Costs {
  double vector, staged_vector;

  explicit Costs(const Convolution& c) {
    const double columns = static_cast<double>(c.column_filters()) * static_cast<double>(c.taps());
    vector = columns * (static_cast<double>(c.row_filters()) / 2 + 2.5);
    staged_vector = 1.5 * static_cast<double>(c.column_channels);
  }
  // A last panel of a single vector keeps the GEMM waiting for weights: it takes as long as 1.3.
  double points(int64_t count, int lanes, int vectors) const {
    const int64_t whole = ceil_div(count, lanes);
    return vector * (static_cast<double>(whole) + (whole % vectors == 1 ? 0.3 : 0.0));
  }
};

constexpr double kTileCost = 300.0;  // of a tile beside

// Tiles of rows: chooses how many, and returns the number of tiles.
int64_t tile_rows(const Convolution& c, int lanes, int vectors, int64_t most_points, int threads, Tiling& t) {
  const int64_t panel = static_cast<int64_t>(lanes) * vectors, row_count = c.output_rows();
  t.width = width(c.output[2], std::max<int64_t>(most_points, 2 * panel));
  const int64_t width_tiles = ceil_div(c.output[2], t.width);
  const Costs costs(c);
  double best = std::numeric_limits<double>::infinity();
  t.rows = 1;
  for (int64_t r = 1; r <= row_count && (r == 1 || r * t.width <= most_points); ++r) {
    const int64_t tiles = ceil_div(row_count, r) * width_tiles * c.groups;
    const double turns = static_cast<double>(ceil_div(tiles, threads));
    const int64_t staged_rows = c.kernel[0] * ((r - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1);
    const int64_t staged = staged_rows * ceil_div(t.width * c.stride[2], lanes);
    const double cost = turns * (costs.points(r * t.width, lanes, vectors) +
                                 costs.staged_vector * static_cast<double>(staged) + kTileCost);
    if (cost < best) {
      best = cost;
      t.rows = r;
    }
  }
  return ceil_div(row_count, t.rows) * width_tiles * c.groups;
}

// Flat tiles, of whole vectors: the same.
int64_t tile_flat(const Convolution& c, int lanes, int vectors, int64_t most_points, int threads, Tiling& t) {
  const int64_t image = c.output[0] * c.output[1] * c.output[2];
  const int64_t halo = (c.kernel[1] - 1) * c.dilation[1] * c.output[2];
  const Costs costs(c);
  double best = std::numeric_limits<double>::infinity();
  int64_t best_tiles = 0;
  t.flat = true;
  t.width = 1;
  for (int64_t points = lanes; points <= most_points; points += lanes) {
    for (const bool by_image : {true, false}) {
      const int64_t run = by_image ? image : c.batch * image, runs = by_image ? c.batch : 1;
      const int64_t tiles = runs * ceil_div(run, points) * c.groups;
      const double turns = static_cast<double>(ceil_div(tiles, threads));
      // Tiles within an image, of a planar source, need no staging.
      const double staged =
          by_image ? 0.0
                   : costs.staged_vector * static_cast<double>(c.kernel[0] * ceil_div(points + halo, lanes));
      const double cost = turns * (costs.points(std::min(points, run), lanes, vectors) + staged + kTileCost);
      if (cost < best) {
        best = cost;
        best_tiles = tiles;
        t.rows = points;
        t.by_image = by_image;
      }
    }
  }
  return best_tiles;
}

}  // namespace

Schedule schedule(const Convolution& c, int lanes, int vectors, int rows, bool folds_aside, int64_t l1_bytes,
                  int64_t l2_bytes, int64_t element_bytes, int threads) {
  const int64_t panel = static_cast<int64_t>(lanes) * vectors, taps = std::max<int64_t>(1, c.taps());
  Schedule s{};
  s.vectors = vectors;

  // The weights' side. It must not depend on extents or threads: packed weights hold for every input.
  // With few rows the fold weighs most: its results should stay in L1 until the GEMM reads them, unless it is
  // done on the side. With many rows the GEMM does, and longer sums load and store its accumulators less
  // often.
  const int64_t column_bytes = taps * panel * element_bytes;
  const int64_t tenths = c.row_filters() > 32 ? 38 : folds_aside ? 14 : 6;
  const int64_t piece_bytes = l1_bytes * tenths / 10;
  int64_t copies = 1;
  for (const Block& b : c.columns) copies = std::max<int64_t>(copies, b.size());
  s.piece_columns = std::clamp<int64_t>(piece_bytes / column_bytes, kPieceColumns, kPiecePlanes / copies);
  const int64_t columns = std::max(kStagedPlanes / copies, s.piece_columns);
  const int64_t most = most_columns(c);
  s.tiling.columns = ceil_div(most, ceil_div(most, columns));  // equal chunks

  // The points' side. A tile's accumulators should stay in L2.
  const int64_t most_points =
      std::clamp<int64_t>(l2_bytes / 2 / (c.row_channels * element_bytes), panel, 16 * panel);
  const int64_t tiles = flat(c) ? tile_flat(c, lanes, vectors, most_points, threads, s.tiling)
                                : tile_rows(c, lanes, vectors, most_points, threads, s.tiling);
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
