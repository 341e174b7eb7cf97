// Choice of tiles, chunks and pieces: see tiling.h.
#include "tiling.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace symconv::cpu {
namespace {

constexpr int64_t kStagedPlanes = 64;  // of a chunk, where a piece does not need more
constexpr int64_t kPiecePlanes = 256;  // of a piece, at most
// Columns of a piece, at least: with fewer, what is set up for each of its tap sets weighs most.
constexpr int64_t kPieceColumns = 8;

// The least multiple of `of` that is at least n.
int64_t whole(int64_t n, int64_t of) { return ceil_div(n, of) * of; }

int64_t most_columns(const Convolution& c) {
  int64_t most = 1;
  for (const Block& b : c.columns) most = std::max(most, b.orbits);
  return most;
}

// Points of a row that a tile takes: all, unless they are many.
int64_t width(int64_t points, int64_t most) {
  return points <= most ? points : ceil_div(points, ceil_div(points, most));
}

// How often a number that was folded and split for a matrix unit must be multiplied.
constexpr int64_t kLeastUses = 96;

// Whether the output is as large as the source and neighbours read neighbours: see Patch.
bool flat(const Convolution& c) {
  bool same = c.taps() > 0;
  for (int d = 0; d < kAxes; ++d) same = same && c.stride[d] == 1 && c.output[d] == c.source[d];
  return same;
}

// Runs of `points` points, each cut into tiles of at most `tile`, multiples of `at_once` and as even as they
// can be, of which `staged` vectors are staged for every channel. In a strip, one thread computes the tiles
// of a run one after the other, all of the same size but the last, and from tile to tile `held` vectors of
// sums are carried over.
struct Cut {
  int64_t runs, points, tile, at_once, staged;
  bool strip = false;
  int64_t held = 0;

  int64_t tiles_of_run() const { return ceil_div(points, tile); }
  int64_t work_items() const { return strip ? runs : runs * tiles_of_run(); }
  int64_t last() const { return points - (tiles_of_run() - 1) * tile; }
};

// The cheapest of the cuts that are offered in ascending size of tile; of those that are nearly so the first.
// Where work items are fewer than threads, their rows are split.
class Cheapest {
 public:
  // `most_panels`: of points in a tile. `sums`: its rows of accumulators; those of a part take `sum_bytes` at
  // most. `packed`: whether the weights have been folded.
  Cheapest(const Convolution& c, const Unit& unit, int threads, int64_t most_panels, int64_t sums,
           int64_t sum_bytes, bool packed)
      : blocks_(c.rows),
        row_cycles_(unit.matrix ? 0.2 : 0.5),
        column_cycles_(unit.matrix ? 7 : 2.5),
        rows_(unit.rows),
        lanes_(unit.lanes),
        vectors_(unit.vectors),
        threads_(threads),
        groups_(c.groups),
        panel_(static_cast<int64_t>(unit.lanes) * unit.vectors),
        most_panels_(most_panels),
        sum_points_(sum_bytes / std::max<int64_t>(1, sums * unit.element_bytes)),
        packed_(packed),
        columns_(static_cast<double>(c.column_filters()) * static_cast<double>(c.taps())),
        channels_(static_cast<double>(c.column_channels)),
        element_(static_cast<double>(unit.element_bytes)),
        l2_(static_cast<double>(unit.l2_bytes)) {
    for (const Block& b : blocks_) most_parts_ = std::max(most_parts_, panels(b));
    most_parts_ = std::min<int64_t>(most_parts_, threads);
  }

  // Points of a tile whose rows are split into `parts`, at most.
  int64_t most_points(int64_t parts) const {
    return std::clamp<int64_t>(sum_points_ * parts, panel_, most_panels_ * panel_);
  }
  // The same of any tile.
  int64_t most_points() const { return most_points(most_parts_); }

  bool offer(const Cut& cut) {
    const int64_t parts = this->parts(cut);
    const bool first = least_ == std::numeric_limits<double>::infinity();
    if (!first && cut.tile > most_points(packed_ && !cut.strip ? 1 : parts)) return false;
    const double cost = cycles(cut, parts);
    if (cost > 0.99 * least_) return false;
    least_ = cost;
    parts_ = parts;
    tiles_ = cut.runs * cut.tiles_of_run();
    return true;
  }
  // Parts that the rows of each tile are split into.
  int64_t row_splits() const { return parts_; }
  int64_t tiles() const { return tiles_; }

 private:
  int64_t work_items(const Cut& cut) const { return cut.work_items() * groups_; }
  // So many that no thread is idle.
  int64_t parts(const Cut& cut) const {
    return std::clamp<int64_t>(threads_ / work_items(cut), 1, most_parts_);
  }
  int64_t panels(const Block& b) const { return ceil_div(b.orbits, rows_); }
  // Rows of the largest part.
  double rows(int64_t parts) const {
    int64_t rows = 0;
    for (const Block& b : blocks_) rows += std::min(b.orbits, ceil_div(panels(b), parts) * rows_);
    return static_cast<double>(rows);
  }
  // In vectors: a last panel of a single one keeps the GEMM waiting for weights, for as long as 1.3.
  double vectors(int64_t points) const {
    const int64_t whole = ceil_div(points, lanes_);
    return static_cast<double>(whole) + (whole % vectors_ == 1 ? 0.3 : 0.0);
  }
  // Of `turns` tiles.
  double vectors(const Cut& cut, int64_t turns) const {
    const auto sum = [&](int64_t count, int64_t points, int64_t others, int64_t other_points) {
      return static_cast<double>(count) * vectors(points) +
             static_cast<double>(others) * vectors(other_points);
    };
    const int64_t tiles = cut.tiles_of_run();
    if (cut.strip) {
      const int64_t last = turns / tiles;
      return sum(turns - last, std::min(cut.tile, cut.points), last, cut.last());
    }
    const int64_t pieces = ceil_div(cut.points, cut.at_once), least = pieces / tiles;
    const int64_t larger = ceil_div(turns * (pieces % tiles), tiles);
    return sum(turns - larger, least * cut.at_once, larger, (least + 1) * cut.at_once);
  }
  // What it saves that each thread folds the weights of its part, which are in its cache then: otherwise all
  // threads fold all of them ahead, and have them from each other.
  double saved(const Cut& cut, double weights) const {
    if (packed_ || !folds_weights_in_tiles(cut.runs * cut.tiles_of_run())) return 0;
    const double all = columns_ * rows(1);
    return all / static_cast<double>(threads_) * (1 + 1.7 * std::min(1.0, all * element_ / l2_)) - weights;
  }
  // Of the thread that has most to do: for each vector of points the GEMM and the fold, and for each tile
  // staging, the way of the weights to L1, and what is set up.
  double cycles(const Cut& cut, int64_t parts) const {
    const int64_t turns = ceil_div(work_items(cut) * parts, threads_) * (cut.strip ? cut.tiles_of_run() : 1);
    const double rows = this->rows(parts), points = vectors(cut, turns);
    // A vector's worth of 16 from the core's own cache takes two cycles; the less of it they fill, the more
    // of them are still there.
    const double weights = columns_ * rows;
    const double load = weights / 8 * std::min(1.0, weights * element_ / l2_);
    const double stage = 1.5 * channels_ * static_cast<double>(cut.staged);
    const double hold = 7 * static_cast<double>(cut.held);
    return columns_ * (rows * row_cycles_ + column_cycles_) * points - saved(cut, weights) +
           static_cast<double>(turns) * (stage + load + hold + 1000);
  }

  const std::vector<Block>& blocks_;
  double row_cycles_, column_cycles_;  // of a vector of points: its GEMM with a row, its fold
  int64_t rows_, lanes_, vectors_, threads_, groups_, panel_, most_panels_, sum_points_;
  bool packed_;
  double columns_, channels_, element_, l2_;
  int64_t most_parts_ = 1;
  double least_ = std::numeric_limits<double>::infinity();
  int64_t parts_ = 1, tiles_ = 0;
};

// Whether taps along v can be applied to the products: rows are tied, and there are products enough.
bool can_take_v_last(const Convolution& c) {
  return c.tied_rows && c.kernel[1] > 1 && c.kernel[1] <= kMostTapsOfV &&
         c.column_filters() >= c.row_filters();
}

// With few rows, folding costs more than it saves to have all taps in one sum: where rows are tied, the taps
// along v are applied to the products, of which there are then fewer than of columns. If nothing is folded
// along v, that gives one sum for each tap, which pays off only where the fold is done on the side. For a
// matrix unit, whose numbers must be split too, it pays off with any number of rows. It must not depend on
// extents: packed weights hold for every input.
bool takes_v_last(const Convolution& c, const Unit& unit) {
  constexpr int64_t kMostRows = 64;
  const bool folded = unit.folds_aside ? c.folded_axes != 0 : (c.folded_axes & kV) != 0;
  return folded && can_take_v_last(c) && (unit.matrix || c.row_filters() <= kMostRows);
}

// Sums of a group that are apart by taps along v, or pairs of them: see Sum in pack.h.
int64_t sums_by_v(const Convolution& c) {
  int64_t sums = 0;
  for (const Block& b : c.rows) {
    sums += ceil_div(b.orbits * b.size() * c.kernel[1], b.mask & kV ? 2 : 1);
  }
  return sums;
}

// What a number takes in tiles of a matrix unit.
int64_t parts_bytes(const Unit& unit) {
  return kTileElements<float> * unit.element_bytes / (kTileRows * kTileDepth);
}

// What the sums of a strip's tile may take: as much as the weights, all of which every tile reads again, and
// their share of a third of L2, besides the source of this tile and of the next and the output, which are
// asked for; not more than half of L2, unless the weights do. Half of it with a matrix unit: processors that
// have one have more L2.
int64_t sum_bytes_of_strip(const Convolution& c, const Unit& unit) {
  const int64_t element_bytes = unit.matrix ? parts_bytes(unit) : unit.element_bytes,
                weight_bytes = c.row_filters() * c.column_filters() * c.taps() * element_bytes;
  const int64_t sums = sums_by_v(c), others = 2 * c.column_channels + c.row_channels;
  const int64_t share = unit.l2_bytes / 3 * sums / std::max<int64_t>(1, sums + others);
  const int64_t beside_others = unit.matrix ? unit.l2_bytes : share + weight_bytes;
  return std::max(std::min(beside_others, unit.l2_bytes / 2), std::min(weight_bytes, 2 * unit.l2_bytes));
}

// Points that the taps along v reach up and down: so many sums are held from tile to tile.
int64_t reach_of_v(const Convolution& c) { return (c.reach_v(c.kernel[1] - 1) - c.reach_v(0)) * c.output[2]; }

// Tiles of rows.
void tile_rows(const Convolution& c, int lanes, int64_t panel, Cheapest& cheapest, Tiling& t) {
  // Not more points for tiles in parts, each of which would stage all rows.
  const int64_t row_count = c.output_rows(), most_points = cheapest.most_points(1);
  t.width = width(c.output[2], std::max<int64_t>(most_points, 2 * panel));
  const int64_t width_tiles = ceil_div(c.output[2], t.width);
  for (int64_t r = 1; r <= row_count && (r == 1 || r * t.width <= most_points); ++r) {
    const int64_t staged_rows = c.kernel[0] * ((r - 1) * c.stride[1] + (c.kernel[1] - 1) * c.dilation[1] + 1);
    const int64_t staged = staged_rows * ceil_div(t.width * c.stride[2], lanes);
    if (cheapest.offer({width_tiles, row_count * t.width, r * t.width, t.width, staged})) t.rows = r;
  }
}

// Flat tiles, of whole vectors.
void tile_flat(const Convolution& c, int lanes, Cheapest& cheapest, Tiling& t) {
  const int64_t image = c.output[0] * c.output[1] * c.output[2];
  const int64_t halo = (c.kernel[1] - 1) * c.dilation[1] * c.output[2];
  t.flat = true;
  t.width = 1;
  const int64_t most = std::min(cheapest.most_points(), c.batch * image + lanes - 1);
  for (int64_t points = lanes; points <= most; points += lanes) {
    const int64_t staged = c.kernel[0] * ceil_div(points + halo, lanes);
    if (cheapest.offer({1, c.batch * image, points, lanes, staged})) t.rows = points;
  }
}

// Strips, one for each thread, or fewer whose rows are split. None where they would be so small that what is
// set up for them, and the sums that neighbours compute twice, cost more than they save.
void tile_strips(const Convolution& c, int lanes, int64_t panel, int threads, Cheapest& cheapest,
                 Schedule& s) {
  const int64_t width = c.output[2], reach = reach_of_v(c), most_points = cheapest.most_points() - reach;
  const int64_t held = sums_by_v(c) * ceil_div(reach, lanes);
  const int64_t most_strips = threads / std::gcd<int64_t>(threads, c.groups);
  for (int64_t strips = 1; strips <= most_strips; ++strips) {
    const int64_t least = c.output_rows() / strips * width;  // points
    if (most_strips % strips != 0 || least < 4 * panel || (strips > 1 && least < 8 * reach)) continue;
    const int64_t points = ceil_div(c.output_rows(), strips) * width + (strips > 1 ? reach : 0);
    for (int64_t tile = lanes; tile <= std::min(most_points, points + lanes - 1); tile += lanes) {
      const int64_t staged = c.kernel[0] * ceil_div(tile, lanes);
      if (!cheapest.offer({strips, points, tile, lanes, staged, true, held})) continue;
      s.strips = strips;
      s.tiling = {tile, 1, s.tiling.columns, true};
    }
  }
  s.row_splits = cheapest.row_splits();
}

}  // namespace

bool takes_matrix(const Convolution& c, int threads, bool packed) {
  constexpr double kLeastProducts = 32e6;  // of a thread
  int64_t rows = 0, columns = 0;
  for (const Block& b : c.rows) rows += whole(b.orbits, kTileRows);
  for (const Block& b : c.columns) columns += whole(b.orbits, kTileDepth);
  const bool v_last = can_take_v_last(c) && (packed || flat(c));
  const int64_t uses = c.row_filters() * (v_last ? c.kernel[1] : 1);
  const double weights = static_cast<double>(c.groups * c.row_filters() * c.column_filters() * c.taps());
  const double products = weights * static_cast<double>(c.output_rows() * c.output[2]);
  return uses >= kLeastUses && (packed || products >= kLeastProducts * threads) &&
         10 * rows * columns <= 13 * c.row_filters() * c.column_filters();
}

Schedule schedule(const Convolution& c, const Unit& unit, int threads, bool packed) {
  const int lanes = unit.lanes;
  const int64_t panel = static_cast<int64_t>(lanes) * unit.vectors;
  Schedule s{};
  s.vectors = unit.vectors;
  s.by_v = takes_v_last(c, unit);
  const int64_t taps = std::max<int64_t>(1, s.by_v ? c.taps() / c.kernel[1] : c.taps());

  // The weights' side. It must not depend on extents or threads: packed weights hold for every input.
  // With few rows the fold weighs most: its results should stay in L1 until the GEMM reads them, unless it is
  // done on the side. With many rows the GEMM does, and longer sums load and store its accumulators less
  // often.
  const int64_t column_bytes = taps * panel * unit.element_bytes;
  const int64_t tenths = c.row_filters() > 32 ? 38 : unit.folds_aside ? 14 : 6;
  const int64_t piece_bytes = unit.l1_bytes * tenths / 10;
  int64_t copies = 1;
  for (const Block& b : c.columns) copies = std::max<int64_t>(copies, b.size());
  // Where taps along v are in the patch after all, its piece must not be much larger for it.
  const int64_t all_bytes = std::max<int64_t>(1, c.taps()) * panel * unit.element_bytes;
  // One chain of additions has at most so many terms where rows are not tied, and all taps are in one sum: a
  // longer one would cost accuracy in float32.
  constexpr int64_t kLongestSum = 768;
  const int64_t accurate = c.tied_rows ? kPiecePlanes : kLongestSum / std::max<int64_t>(1, c.taps());
  // Whole vectors of columns: they are transposed where columns lie next to each other.
  const auto whole_vectors = [&](int64_t n) { return n <= lanes ? n : n / lanes * lanes; };
  s.piece_columns =
      std::clamp<int64_t>(std::min({whole_vectors(piece_bytes / column_bytes + lanes / 2),
                                    whole_vectors(5 * unit.l1_bytes / all_bytes), whole_vectors(accurate)}),
                          kPieceColumns, kPiecePlanes / copies);
  const int64_t most = most_columns(c);
  if (unit.matrix) {
    // While all rows are multiplied with a piece, the tiles of one parity class of it should stay in L1.
    s.piece_columns =
        std::clamp<int64_t>(2 * unit.l1_bytes / (taps * panel * parts_bytes(unit)) / kTileDepth * kTileDepth,
                            kTileDepth, std::max<int64_t>(kTileDepth, kPiecePlanes / copies));
    s.piece_columns = std::min(s.piece_columns, whole(most, kTileDepth));
  }
  const int64_t columns = std::max(kStagedPlanes / copies, s.piece_columns);
  s.tiling.columns = ceil_div(most, ceil_div(most, columns));  // equal chunks
  if (unit.matrix) s.tiling.columns = whole(s.tiling.columns, kTileDepth);
  if (s.tiling.columns > lanes) s.tiling.columns = std::min(columns, whole(s.tiling.columns, lanes));

  // The points' side. A tile's accumulators should stay in L2.
  const auto cheapest = [&](int64_t sums, int64_t most_panels, int64_t sum_bytes) {
    return Cheapest(c, unit, threads, most_panels, sums, sum_bytes, packed);
  };
  if (s.by_v && flat(c)) {
    Cheapest of_strip = cheapest(sums_by_v(c), 32, sum_bytes_of_strip(c, unit));
    if (reach_of_v(c) <= of_strip.most_points() / 2) {
      tile_strips(c, lanes, panel, threads, of_strip, s);
      if (s.strips > 0) return s;
    }
  }
  Cheapest of_tile = cheapest(c.row_channels, 16, unit.l2_bytes / 2);
  if (flat(c)) {
    tile_flat(c, lanes, of_tile, s.tiling);
  } else {
    tile_rows(c, lanes, panel, of_tile, s.tiling);
  }
  s.row_splits = of_tile.row_splits();
  if (!packed && !unit.matrix && folds_weights_in_tiles(of_tile.tiles())) {
    // The weights of a chunk are folded together, and should stay in L2 until they are multiplied.
    const int64_t column_weights = std::max<int64_t>(1, c.taps()) * ceil_div(c.row_filters(), s.row_splits);
    s.piece_columns = std::clamp<int64_t>(unit.l2_bytes / 3 / (column_weights * unit.element_bytes),
                                          kPieceColumns, s.piece_columns);
    s.tiling.columns = std::min(s.tiling.columns, ceil_div(most, ceil_div(most, s.piece_columns)));
    // Of columns that lie next to each other whole vectors are transposed.
    if (s.tiling.columns > lanes) s.tiling.columns = s.tiling.columns / lanes * lanes;
  }
  return s;
}

namespace {

// Whether wgrad can apply the taps along v to grad_output: a tile's rows of points are those of the source,
// and those that are needed above and below are not many.
bool wgrad_can_take_v_last(const Convolution& c) {
  constexpr int64_t kMostReach = 256;
  return can_take_v_last(c) && c.stride[1] == 1 && c.output[1] == c.source[1] && reach_of_v(c) <= kMostReach;
}

// Whether it does. The rows of its GEMM are then as many as the taps along v need, half as many more than
// otherwise if those are folded, and columns are folded less. With vectors that pays off for few rows of
// which the taps are folded, on a matrix unit where there would not be rows enough.
bool wgrad_takes_v_last(const Convolution& c, bool matrix) {
  constexpr int64_t kFewRows = 64;
  if (!wgrad_can_take_v_last(c)) return false;
  const int64_t rows = c.row_filters();
  const bool folded = (c.folded_axes & kV) != 0;
  return matrix ? rows < kLeastUses && (folded || rows >= kFewRows) : rows <= kFewRows && folded;
}

}  // namespace

bool wgrad_takes_matrix(const Convolution& c, int threads) {
  constexpr double kLeastProducts = 32e6;
  const int64_t rows = c.row_filters(), uses = rows * (wgrad_takes_v_last(c, true) ? c.kernel[1] : 1);
  bool whole_columns = true;
  for (const Block& b : c.columns) whole_columns = whole_columns && b.orbits % kTileRows == 0;
  const double products = static_cast<double>(c.groups * rows * c.column_filters() * c.taps()) *
                          static_cast<double>(c.output_rows() * c.output[2]);
  return whole_columns && uses >= kLeastUses && 10 * whole(rows, kTileRows) <= 13 * rows &&
         products >= kLeastProducts * threads;
}

WgradSchedule wgrad_schedule(const Convolution& c, int lanes, int64_t l2_bytes, int64_t element_bytes,
                             int threads, bool matrix) {
  const int64_t most = most_columns(c), rows = c.output_rows();
  // Points whose products are summed in one chain: fewer would load and store the sums more often, more would
  // cost accuracy in float32.
  constexpr int64_t kSummed = 128;
  WgradSchedule s{};
  // Vector operations per point and tap, with either side in the lanes.
  int64_t column_vectors = 0;
  for (const Block& b : c.columns) column_vectors += ceil_div(b.orbits, lanes);
  s.column_lanes =
      matrix || c.row_filters() * column_vectors <= ceil_div(c.row_filters(), lanes) * c.column_filters();
  s.by_v = s.column_lanes && wgrad_takes_v_last(c, matrix);
  const int64_t taps = std::max<int64_t>(1, s.by_v ? c.taps() / c.kernel[1] : c.taps());
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
  // waiting for loads. For a matrix unit few, that a piece stays in L1.
  const int64_t width = matrix ? kTileRows : lanes;
  const int64_t vectors = ceil_div(most, width),
                at_once = matrix && s.by_v ? 1 : std::max<int64_t>(1, 18 / taps);
  s.tiling.columns = ceil_div(vectors, ceil_div(vectors, at_once)) * width;
  const int64_t point_bytes = taps * s.tiling.columns * element_bytes;
  s.piece_points = std::clamp<int64_t>(l2_bytes / 4 / point_bytes, 16, kSummed);
  // A tile's rows of the GEMM should stay in L2.
  int64_t products = c.fold().classes();
  if (s.by_v) products = c.folded_axes & kV ? products / 2 * c.kernel[1] : products * c.kernel[1];
  const int64_t slots_bytes = std::max<int64_t>(1, products * c.row_filters() * element_bytes);
  const int64_t most_points = std::clamp<int64_t>(l2_bytes / 4 / slots_bytes, 256, 512);
  s.tiling.width = symconv::cpu::width(c.output[2], most_points);
  // As many tiles as threads, or a multiple of that.
  const int64_t most_rows = std::max<int64_t>(1, most_points / s.tiling.width);
  s.tiling.row_tiles = std::min(rows, whole(ceil_div(rows, most_rows), threads));
  s.tiling.rows = std::max<int64_t>(1, ceil_div(rows, std::max<int64_t>(1, s.tiling.row_tiles)));
  const int64_t points = s.tiling.rows * s.tiling.width;
  if (matrix) {
    // Long sums: those of a matrix unit take long to load and store, and cost no accuracy.
    s.piece_points = 4 * kTileDepth;
    return s;
  }
  s.piece_points =
      std::max<int64_t>(1, ceil_div(points, std::max<int64_t>(1, ceil_div(points, s.piece_points))));
  return s;
}

}  // namespace symconv::cpu
