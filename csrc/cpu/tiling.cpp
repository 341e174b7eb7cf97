// Choice of tiles and chunks: see tiling.h.
#include "tiling.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace symconv::cpu {
Schedule schedule(const Convolution& c, int lanes, int vectors, int rows, int64_t l1_bytes, int64_t l2_bytes,
                  int64_t element_bytes, int threads) {
  const int64_t panel = static_cast<int64_t>(lanes) * vectors, taps = std::max<int64_t>(1, c.taps());
  Schedule s{};
  s.vectors = getenv("TV") ? atoi(getenv("TV")) : vectors;
  int64_t most = 1;
  for (const Block& b : c.columns) most = std::max(most, b.orbits);
  s.piece_columns = std::max(1, getenv("TP") ? atoi(getenv("TP")) : 16);
  s.tiling.columns = std::min<int64_t>(most, getenv("TC") ? atoi(getenv("TC")) : 64);

  s.tiling.width = c.output[2] <= 512 ? c.output[2] : ceil_div(c.output[2], ceil_div(c.output[2], 256));
  const int64_t width_tiles = ceil_div(c.output[2], s.tiling.width);
  // Flat tiles fold whole panels at once, at the price of multiplying the points between rows.
  const int64_t pitch = s.tiling.width + (c.kernel[2] - 1) * c.dilation[2];
  s.tiling.flat = c.taps() > 0 && c.stride[1] == 1 && c.stride[2] == 1 && pitch * 8 <= s.tiling.width * 9 && (c.kernel[1] - 1) * c.dilation[1] < 4;
  const int64_t row_count = c.output_rows();
  // Points: the accumulators of a tile must stay in L2 where they are kept from chunk to chunk.
  int64_t copies = 1;
  for (const Block& b : c.columns) copies = std::max<int64_t>(copies, b.size());
  const int64_t most_points =
      std::clamp<int64_t>(l2_bytes / 2 / (c.row_channels * element_bytes), panel, 8 * panel);
  // Cost of a tile, in vector operations: the GEMM of its points, rounded up to vectors; staging, with its
  // halo.
  const double work = static_cast<double>(c.row_filters()) * c.column_filters() * taps;
  const double stage_work = 1.5 * c.column_channels * c.kernel[0];
  const double fold_work = 2.5 * c.column_filters() * taps;
  double best = std::numeric_limits<double>::infinity();
  s.tiling.rows = 1;
  for (int64_t r = 1; r <= row_count && (r == 1 || r * s.tiling.width <= most_points); ++r) {
    const int64_t tiles = ceil_div(row_count, r) * width_tiles * c.groups;
    const double turns = static_cast<double>(ceil_div(tiles, threads));
    const double vectors_used = static_cast<double>(ceil_div(r * s.tiling.width, lanes));
    const double staged_rows =
        static_cast<double>((r - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1);
    const double cost =
        turns * (vectors_used * (work / 2 + fold_work) +
                 staged_rows * stage_work * ceil_div(s.tiling.width * c.stride[2], lanes) + 300.0);
    if (cost < best) {
      best = cost;
      s.tiling.rows = r;
    }
  }
  const int64_t tiles = ceil_div(row_count, s.tiling.rows) * width_tiles * c.groups;
  int64_t panels = 0;
  for (const Block& b : c.rows) panels = std::max(panels, ceil_div(b.orbits, static_cast<int64_t>(rows)));
  s.row_splits = tiles >= threads ? 1 : std::clamp<int64_t>(threads / tiles, 1, std::max<int64_t>(1, panels));
  return s;
}

Tiling wgrad_tiling(const Convolution& c, int lanes, int64_t l2_bytes, int64_t element_bytes, int threads) {
  (void)threads;
  const int64_t taps = std::max<int64_t>(1, c.taps());
  Tiling t{};
  t.width = c.output[2] <= 256 ? c.output[2] : ceil_div(c.output[2], ceil_div(c.output[2], 224));
  t.rows = std::clamp<int64_t>(224 / t.width, 1, std::max<int64_t>(1, c.output_rows()));
  int64_t most = 1;
  for (const Block& b : c.columns) most = std::max(most, b.orbits);
  const int64_t points = ceil_div(t.rows * t.width, lanes) * lanes;
  int64_t columns = std::clamp<int64_t>(l2_bytes / 2 / (taps * points * element_bytes), 1, most);
  columns = ceil_div(most, ceil_div(most, columns));
  t.columns = columns;
  return t;
}

}  // namespace symconv::cpu
