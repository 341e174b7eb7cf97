// wgrad's loops: gW[row][column][k] = sum over points of gu[row, class of k][point] X[k][column][point], then
// the transpose of the weight fold.
//
// gu are the rows that grad_output gives (gradient_rows.h): for each parity class of the fold the slot of
// every filter, so that a class is one GEMM for all filters of a group, whatever their masks. A work item
// sums a share of the points for a share of the columns, tile by tile: gu is prepared once; every chunk of
// columns is staged, folded and multiplied. Shares of points are then added in order, so the result depends
// on the number of threads but not on their timing.
//
// Of the GEMM's result one side lies in the lanes of vectors (WgradSchedule):
//   columns  X is folded as [point][coefficient][column], a piece that stays in L1 at a time. Points are
//            rows, so no lane is lost where lines are short.
//   filters  X is folded as [coefficient][column][point], a tile at a time; for layers with few columns.
#include "wgrad.h"

#include <algorithm>
#include <cstring>

#include "ahead.h"
#include "gradient_rows.h"
#include "kernels.h"
#include "patch.h"
#include "recent.h"
#include "scalar.h"
#include "tiling.h"

namespace symconv::cpu {
namespace {

struct ThreadScratch {
  GradientBuffers rows;
  Scratch staged, folded, gradient_tiles, tiles, segments, calls;
  std::vector<Move> moves;
  std::vector<int> ends;
  std::vector<uint32_t> masks;
  std::vector<StagedRun> staging;
  std::vector<OutputRun> next;
  Ahead ahead;  // of the tile that comes next
  std::vector<PointRun> sources, padding, points;
  std::vector<PointRun> padded;  // the padding that the staged planes have zeros for
};

// Vectors of filters, at most as many as a micro-tile has.
struct LanePanel {
  int64_t first;
  int vectors;
};

template <typename T>
class Wgrad {
 public:
  Wgrad(const Problem& problem, int threads)
      : c_(Convolution::fprop(problem)),
        kernels_(kernels<T>()),
        matrix_(wgrad_takes_matrix(c_, threads) ? kernels_.matrix : nullptr),
        lanes_(kernels_.lanes),
        schedule_(
            wgrad_schedule(c_, kernels_.lanes, kernels_.l2_bytes, sizeof(T), threads, matrix_ != nullptr)),
        patch_(schedule_.by_v ? c_.without_v() : c_, schedule_.tiling,
               schedule_.column_lanes ? 1 : kernels_.lanes, sizeof(T)),
        gradient_(c_, patch_, schedule_, kernels_),
        points_(gradient_.points()),
        rows_(c_.row_filters()) {
    const int64_t row_vectors = ceil_div(rows_, lanes_), panels = ceil_div(row_vectors, kernels_.vectors);
    for (int64_t i = 0; i < panels && !schedule_.column_lanes; ++i) {
      const int64_t first = part(row_vectors, panels, i);
      panels_.push_back({first * lanes_, static_cast<int>(part(row_vectors, panels, i + 1) - first)});
    }
    for (const Chunk& chunk : patch_.chunks()) {
      before_.push_back(share_);
      share_ += c_.taps() *
                (schedule_.column_lanes ? rows_ * chunk_lanes(chunk) : chunk.columns * row_vectors * lanes_);
    }
    // Shares: of columns if adding up shares of points would cost more than preparing grad_output for each
    // share.
    const int64_t wanted = ceil_div(threads, c_.groups),
                  chunks = static_cast<int64_t>(patch_.chunks().size());
    const double gradients = static_cast<double>(c_.output_rows()) * c_.output[2] * c_.row_channels;
    if (static_cast<double>(share_) > gradients / 2 && chunks >= wanted) {
      column_shares_ = wanted;
    } else {
      point_shares_ = std::clamp<int64_t>(patch_.tiles(), 1, wanted);
    }
  }

  void run(const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads& threads) const {
    static thread_local Scratch sums;
    T* accumulators = sums.get<T>(c_.groups * point_shares_ * share_);
    const int64_t chunks = static_cast<int64_t>(patch_.chunks().size()), tiles = patch_.tiles();
    if (tiles == 0) std::fill_n(accumulators, c_.groups * point_shares_ * share_, T(0));
    threads.run(c_.groups * column_shares_ * point_shares_, [&](int64_t begin, int64_t end) {
      static thread_local ThreadScratch scratch;
      const MatrixUse<T> use(matrix_);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / (column_shares_ * point_shares_);
        const int64_t columns = i / point_shares_ % column_shares_, points = i % point_shares_;
        scratch.padded.clear();
        T* target = accumulators + (group * point_shares_ + points) * share_;
        const int64_t first = part(tiles, point_shares_, points),
                      last = part(tiles, point_shares_, points + 1);
        for (int64_t t = first; t < last; ++t) {
          const Tile next = t + 1 < last ? patch_.tile(t + 1) : Tile{};
          look_ahead(patch_.tile(t), next, grad_output, input, scratch);
          add_tile(group, patch_.tile(t), part(chunks, column_shares_, columns),
                   part(chunks, column_shares_, columns + 1), grad_output, input, target, t > first, scratch);
        }
      }
    });
    write(accumulators, grad_weight, threads);
  }

 private:
  using Rows = typename GradientRows<T>::Rows;

  int64_t chunk_lanes(const Chunk& chunk) const { return ceil_div(chunk.columns, lanes_) * lanes_; }

  // Plans what the GEMM of a tile asks for on the side: what the next one reads, where points are rows of
  // channels. Planes are read in long runs, which the processor sees by itself.
  void look_ahead(const Tile& tile, const Tile& next, const Tensor& grad_output, const Tensor& input,
                  ThreadScratch& scratch) const {
    scratch.ahead.clear();
    if (!schedule_.column_lanes || c_.groups > 1 || next.first_row == next.last_row) return;
    int64_t panels = 0;
    for (const Product& product : gradient_.products()) {
      panels += ceil_div(product.count * schedule_.tiling.columns / lanes_, kernels_.vectors);
    }
    panels *= static_cast<int64_t>(patch_.chunks().size()) / column_shares_ *
              ceil_div(patch_.points(tile), schedule_.piece_points);
    const auto add = [&](const Tensor& tensor, int64_t point_step) {
      const int64_t element = element_size(tensor.dtype);
      for (const OutputRun& run : scratch.next) {
        scratch.ahead.add_range(run.offset * element, run.count * point_step * element);
      }
      scratch.ahead.add_plane(tensor.data);
      scratch.ahead.end_group();
    };
    if (grad_output.strides[1] == 1) {
      patch_.runs(next, 0, patch_.points(next), grad_output, scratch.next);
      add(grad_output, grad_output.strides[4]);
    }
    if (input.strides[1] == 1) {
      patch_.ahead(next, input, scratch.next);
      add(input, input.strides[4] * c_.stride[2]);
    }
    scratch.ahead.spread(panels * ceil_div(rows_, kernels_.rows));
  }

  void add_tile(int64_t group, const Tile& tile, int64_t first_chunk, int64_t last_chunk,
                const Tensor& grad_output, const Tensor& input, T* accumulators, bool accumulate,
                ThreadScratch& scratch) const {
    const Rows gradient = gradient_.prepare(group, tile, grad_output, scratch.rows);
    patch_.staging(tile, input, scratch.staging);
    if (schedule_.column_lanes) {
      plan_points(tile, scratch);
      if (matrix_) split_gradient(tile, gradient, scratch);
    } else {
      patch_.moves(tile, points_, nullptr, scratch.moves, scratch.ends, scratch.masks);
    }
    MatrixWork<T> work{};
    int64_t pieces = 0;
    for (int64_t k = first_chunk; k < last_chunk; ++k) {
      if (schedule_.column_lanes) {
        add_columns(group, tile, k, input, gradient, accumulators + before_[k], accumulate, work, pieces,
                    scratch);
      } else {
        add_filters(group, tile, k, input, gradient, accumulators + before_[k], accumulate, scratch);
      }
    }
    if (matrix_) matrix_->finish(work);
  }

  int64_t products() const { return static_cast<int64_t>(gradient_.products().size()); }

  // What to stage and to fold for a tile with columns in the lanes, and the padding, which is the same for
  // all chunks.
  void plan_points(const Tile& tile, ThreadScratch& scratch) const {
    patch_.point_runs(tile, schedule_.piece_points, scratch.points, scratch.ends);
    scratch.sources.clear();
    scratch.padding.clear();
    const auto pad = [&](int64_t first, int64_t count) {
      if (count == 0) return;
      if (!scratch.padding.empty() && scratch.padding.back().target + scratch.padding.back().count == first) {
        scratch.padding.back().count += count;
      } else {
        scratch.padding.push_back({0, first, count});
      }
    };
    for (const StagedRun& run : scratch.staging) {
      pad(run.position, run.low);
      if (run.high > run.low)
        scratch.sources.push_back({run.source, run.position + run.low, run.high - run.low});
      pad(run.position + run.high, run.count - run.high);
    }
    if (scratch.padding == scratch.padded) return;
    const int64_t planes = staged_planes();
    T* staged = scratch.staged.get<T>(planes * patch_.plane() * lanes_);
    for (int64_t p = 0; p < planes; ++p) {
      for (const PointRun& run : scratch.padding) {
        std::memset(staged + (p * patch_.plane() + run.target) * lanes_, 0, run.count * lanes_ * sizeof(T));
      }
    }
    scratch.padded = scratch.padding;
  }

  // Planes of whole vectors of columns.
  int64_t staged_planes() const {
    int64_t planes = 1;
    for (const Chunk& chunk : patch_.chunks()) {
      planes = std::max(planes, chunk_lanes(chunk) / lanes_ * chunk.copies);
    }
    return planes;
  }

  // `work`: of a matrix unit, what is left of the piece before, and afterwards of the last piece; `pieces`:
  // how many there have been.
  void add_columns(int64_t group, const Tile& tile, int64_t k, const Tensor& input, const Rows& gradient,
                   T* accumulators, bool accumulate, MatrixWork<T>& work, int64_t& pieces,
                   ThreadScratch& scratch) const {
    const Chunk& chunk = patch_.chunks()[k];
    const Block& block = c_.columns[chunk.block];
    const int64_t width = chunk_lanes(chunk), vectors = width / lanes_, plane = patch_.plane() * lanes_;
    T* staged = scratch.staged.get<T>(staged_planes() * plane);
    SlotsArguments<T> s{};
    s.slots = s.classes = 1;
    s.orbit_stride = input.strides[1];
    s.point_stride = c_.stride[2] * input.strides[4];
    s.runs = scratch.sources.data();
    s.run_count = static_cast<int>(scratch.sources.size());
    s.orbit_step = 1;
    s.point_step = lanes_;
    for (int64_t v = 0; v < vectors; ++v) {
      for (int copy = 0; copy < chunk.copies; ++copy) {
        const int64_t column = chunk.first + v * lanes_;
        const int64_t channel = group * c_.column_channels + block.channel(column, copy);
        s.orbits = std::min<int64_t>(lanes_, chunk.first + chunk.columns - column);
        s.source[0] =
            static_cast<const char*>(input.data) + channel * input.strides[1] * element_size(input.dtype);
        s.target = staged + (v * chunk.copies + copy) * plane;
        kernels_.slots(input.dtype, s);
      }
    }
    const int64_t row = c_.taps() * width, folded_row = patch_.coefficients() * width;  // of the sums, of X
    const int64_t line = 64 / sizeof(T), point_row = (ceil_div(folded_row, line) | 1) * line;
    const int64_t tile_vectors = folded_row / kTileRows;
    T* folded = scratch.folded.get<T>(schedule_.piece_points * point_row);
    const std::vector<TapSet>& sets = patch_.tap_sets(chunk);
    const int64_t points = patch_.points(tile);
    Aside<T> aside{nullptr, scratch.ahead.lines(), 0};
    const bool asks = !scratch.ahead.empty();
    const int64_t size = schedule_.piece_points / kTileDepth * most_tile_vectors() * kTileElements<T>;
    T* const buffers = matrix_ ? scratch.tiles.get<T>(2 * size) : nullptr;
    for (size_t i = 0; i < scratch.ends.size(); ++i) {
      const int64_t point = i * schedule_.piece_points;
      const int first = i == 0 ? 0 : scratch.ends[i - 1];
      for (int64_t v = 0; v < vectors; ++v) {
        kernels_.fold_points({sets.data(), static_cast<int>(sets.size()), chunk.copies,
                              staged + v * chunk.copies * plane, plane, scratch.points.data() + first,
                              scratch.ends[i] - first, folded + v * lanes_, point_row, width});
      }
      const int64_t depth = std::min(schedule_.piece_points, points - point);
      if (matrix_) {
        T* const tiles = buffers + pieces++ % 2 * size;
        for (int64_t k = 0; k < depth; k += kTileDepth) {
          matrix_->split_points(static_cast<int>(std::min<int64_t>(kTileDepth, depth - k)),
                                static_cast<int>(tile_vectors), folded + k * point_row, point_row,
                                tiles + k / kTileDepth * tile_vectors * kTileElements<T>, work);
        }
        matrix_->finish(work);
        work = plan_work(i, depth, width, tile_vectors, tiles, accumulators, accumulate || i > 0, scratch);
        continue;
      }
      for (int64_t p = 0; p < products(); ++p) {
        const Product& product = gradient_.products()[p];
        const int64_t n = product.count * vectors;
        const int64_t panels = ceil_div(n, kernels_.vectors), tiles = ceil_div(rows_, kernels_.rows);
        for (int64_t j = 0; j < panels; ++j) {
          const int64_t v = part(n, panels, j), lane = product.at * width + v * lanes_;
          const Segment<T> segment{folded + product.first * width + v * lanes_, depth};
          for (int64_t t = 0; t < tiles; ++t) {
            if (asks) aside.line_count = scratch.ahead.take(1);
            const int64_t r = part(rows_, tiles, t);
            kernels_.gemm(static_cast<int>(part(rows_, tiles, t + 1) - r),
                          static_cast<int>(part(n, panels, j + 1) - v), gradient.at(p, r, point),
                          gradient.row_step, gradient.point_step, &segment, 1, point_row,
                          accumulators + r * row + lane, row, accumulate || i > 0, aside);
          }
        }
      }
    }
  }

  // Vectors of columns of the folded rows of the largest chunk.
  int64_t most_tile_vectors() const {
    int64_t most = 0;
    for (const Chunk& chunk : patch_.chunks()) most = std::max(most, chunk_lanes(chunk));
    return patch_.coefficients() * most / kTileRows;
  }

  // The tiles of A of a tile's grad_output: [piece of points][product][panel of rows][depth].
  void split_gradient(const Tile& tile, const Rows& gradient, ThreadScratch& scratch) const {
    const int64_t points = patch_.points(tile), panels = ceil_div(rows_, kTileRows);
    T* to = scratch.gradient_tiles.get<T>(
        products() * panels * (points / kTileDepth + ceil_div(points, schedule_.piece_points) + 1) *
        kTileElements<T>);
    for (int64_t point = 0; point < points; point += schedule_.piece_points) {
      const int64_t k = std::min(schedule_.piece_points, points - point);
      for (int64_t p = 0; p < products(); ++p) {
        for (int64_t r = 0; r < rows_; r += kTileRows, to += ceil_div(k, kTileDepth) * kTileElements<T>) {
          matrix_->split_rows(static_cast<int>(std::min<int64_t>(kTileRows, rows_ - r)), k,
                              gradient.at(p, r, point), gradient.row_step, gradient.point_step, to);
        }
      }
    }
  }

  // The products of piece `piece` of `points` points, whose folded rows of `row` vectors of columns are
  // split, with all rows of grad_output.
  MatrixWork<T> plan_work(size_t piece, int64_t points, int64_t width, int64_t row, const T* tiles,
                          T* accumulators, bool accumulate, ThreadScratch& scratch) const {
    const int64_t depth = ceil_div(points, kTileDepth), panels = ceil_div(rows_, kTileRows);
    const int64_t sums = c_.taps() * width, most = sums / kTileRows;  // vectors of the sums of a row
    MatrixCall<T>* const calls = scratch.calls.get<MatrixCall<T>>(most * panels);
    MatrixCall<T>* end = calls;
    Segment<T>* segment = scratch.segments.get<Segment<T>>(most);
    const T* a = scratch.gradient_tiles.get<T>(0) + static_cast<int64_t>(piece) * products() * panels *
                                                        (schedule_.piece_points / kTileDepth) *
                                                        kTileElements<T>;
    for (const Product& product : gradient_.products()) {
      const int64_t n = product.count * width / kTileRows, at = product.at * width / kTileRows;
      for (int64_t v = 0; v < n; v += matrix_->vectors, ++segment) {
        *segment = {tiles + (product.first * width / kTileRows + v) * kTileElements<T>, depth};
        for (int64_t t = 0; t < panels; ++t) {
          *end++ = {static_cast<int>(std::min<int64_t>(kTileRows, rows_ - t * kTileRows)),
                    static_cast<int>(std::min<int64_t>(matrix_->vectors, n - v)),
                    a + t * depth * kTileElements<T>,
                    segment,
                    1,
                    accumulators + t * kTileRows * sums + (at + v) * kTileRows,
                    accumulate};
        }
      }
      a += panels * depth * kTileElements<T>;
    }
    MatrixWork<T> work{};
    work.call = calls;
    work.end = end;
    work.b_row = row * kTileElements<T>;
    work.c_row = sums;
    for (int64_t i = 0; i < most; ++i) {
      work.line_count += scratch.ahead.take(ceil_div(rows_, kernels_.rows));
    }
    work.lines = scratch.ahead.lines();
    // Three for each two vectors that are split meanwhile.
    work.interval = std::max<int64_t>(
        1, schedule_.piece_points * row * 3 / 2 / std::max<int64_t>(1, most * panels * depth));
    return work;
  }

  void add_filters(int64_t group, const Tile& tile, int64_t k, const Tensor& input, const Rows& gradient,
                   T* accumulators, bool accumulate, ThreadScratch& scratch) const {
    const Chunk& chunk = patch_.chunks()[k];
    T* staged = scratch.staged.get<T>(patch_.staged_elements());
    T* folded = scratch.folded.get<T>(c_.taps() * schedule_.tiling.columns * points_ + lanes_);
    patch_.stage(kernels_, scratch.staging, chunk, group, input, staged);
    FoldArguments<T> fold;
    patch_.fold(chunk, 0, chunk.columns, scratch.moves, 0, static_cast<int>(scratch.moves.size()),
                scratch.masks, patch_.staged(chunk, staged), folded, points_, fold);
    kernels_.fold(fold);
    const int64_t points = patch_.points(tile);
    for (const LanePanel& panel : panels_) {
      const int64_t width = panel.vectors * lanes_;
      for (int64_t p = 0; p < products(); ++p) {
        const Product& product = gradient_.products()[p];
        const int64_t first = product.first * chunk.columns, rows = product.count * chunk.columns;
        for (int64_t point = 0; point < points; point += schedule_.piece_points) {
          const Segment<T> segment{gradient.at(p, panel.first, point),
                                   std::min(schedule_.piece_points, points - point)};
          const T* a = folded + first * points_ + point;
          T* c = accumulators + filter_sums(chunk, panel) + first * width;
          for (int64_t r = 0; r < rows; r += kernels_.rows) {
            kernels_.gemm(static_cast<int>(std::min<int64_t>(kernels_.rows, rows - r)), panel.vectors,
                          a + r * points_, points_, 1, &segment, 1, gradient.point_step, c + r * width, width,
                          accumulate || point > 0, {});
          }
        }
      }
    }
  }

  // Where in a chunk's sums a panel's start.
  int64_t filter_sums(const Chunk& chunk, const LanePanel& panel) const {
    return panel.first * chunk.columns * c_.taps();
  }

  // The gradient, from the sums of all groups and shares.
  void write(const T* accumulators, const Tensor& grad_weight, const Threads& threads) const {
    const int64_t chunks = static_cast<int64_t>(patch_.chunks().size());
    const std::vector<TapSet> sets = unfold_sets(grad_weight);
    if (schedule_.column_lanes) {
      // Each share's columns few rows at a time, so that the gradient is written in long runs: a single row
      // where columns lie next to each other, and taps do not.
      const int64_t at_once = grad_weight.strides[1] == 1 ? 1 : 8, parts = ceil_div(rows_, at_once);
      return threads.run(c_.groups * column_shares_ * parts, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t group = i / parts / column_shares_, columns = i / parts % column_shares_,
                        row = i % parts * at_once;
          const int64_t last = part(chunks, column_shares_, columns + 1);
          for (int64_t k = part(chunks, column_shares_, columns); k < last; ++k) {
            unfold(group, k, row, std::min(rows_, row + at_once),
                   accumulators + group * point_shares_ * share_, sets, grad_weight);
          }
        }
      });
    }
    const int64_t panels = static_cast<int64_t>(panels_.size());
    threads.run(c_.groups * chunks * panels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / panels / chunks;
        unfold(group, i / panels % chunks, i % panels, i % panels + 1,
               accumulators + group * point_shares_ * share_, sets, grad_weight);
      }
    });
  }

  // The tap sets of the fold in a filter of the gradient.
  std::vector<TapSet> unfold_sets(const Tensor& grad_weight) const {
    TapOffsets offsets[kAxes];
    for (int d = 0; d < kAxes; ++d) {
      for (int64_t t = 0; t < c_.kernel[d]; ++t) offsets[d].push_back(t * grad_weight.strides[2 + d]);
    }
    return tap_sets(c_.fold(), 0, offsets, gradient_.positions());
  }

  // Adds the shares of points and turns coefficients into taps, for rows or panels [first, last) of a chunk.
  void unfold(int64_t group, int64_t chunk_index, int64_t first, int64_t last, const T* accumulators,
              const std::vector<TapSet>& sets, const Tensor& grad_weight) const {
    const Chunk& chunk = patch_.chunks()[chunk_index];
    const int64_t row = group * rows_, column = c_.columns[chunk.block].first + chunk.first;
    const int64_t row_stride = grad_weight.strides[0], column_stride = grad_weight.strides[1];
    const T* sums = accumulators + before_[chunk_index];
    UnfoldArguments<T> u{};
    u.sets = sets.data();
    u.set_count = static_cast<int>(sets.size());
    u.shares = point_shares_;
    u.share = share_;
    const auto unfold_lanes = [&](const T* from, int64_t r, int64_t j, int64_t lanes) {
      u.sums = from;
      u.lanes = static_cast<int>(std::min<int64_t>(lanes_, lanes));
      u.target = static_cast<char*>(grad_weight.data) +
                 ((row + r) * row_stride + (column + j) * column_stride) * element_size(grad_weight.dtype);
      kernels_.unfold_weight(grad_weight.dtype, u);
    };
    if (schedule_.column_lanes) {
      const int64_t width = chunk_lanes(chunk);
      u.vectors = last - first;
      u.sums_row = c_.taps() * width;
      u.step = width;
      u.target_row = row_stride;
      u.lane_stride = column_stride;
      for (int64_t j = 0; j < chunk.columns; j += lanes_) {
        unfold_lanes(sums + first * u.sums_row + j, first, j, chunk.columns - j);
      }
      return;
    }
    u.vectors = chunk.columns;
    u.target_row = column_stride;
    u.lane_stride = row_stride;
    for (int64_t i = first; i < last; ++i) {
      const LanePanel& panel = panels_[i];
      u.sums_row = panel.vectors * lanes_;
      u.step = chunk.columns * u.sums_row;
      for (int64_t l = 0; l < u.sums_row; l += lanes_) {
        unfold_lanes(sums + filter_sums(chunk, panel) + l, panel.first + l, 0, rows_ - panel.first - l);
      }
    }
  }

  Convolution c_;
  const Kernels<T>& kernels_;
  const MatrixKernels<T>* matrix_;  // null: not used
  int64_t lanes_;
  WgradSchedule schedule_;
  Patch patch_;
  GradientRows<T> gradient_;
  int64_t points_;                 // of a tile, rounded up
  int64_t rows_;                   // filters of a group
  std::vector<LanePanel> panels_;  // with filters in the lanes
  std::vector<int64_t> before_;    // sums before each chunk
  int64_t share_ = 0;              // sums of a group's share of points
  int64_t column_shares_ = 1, point_shares_ = 1;
};

template <typename T>
const Wgrad<T>& plan_of(const Problem& problem, int threads) {
  static thread_local Recent<Wgrad<T>> recent;
  return recent.get(problem, threads, [&] { return Wgrad<T>(problem, threads); });
}

}  // namespace

void convolve_wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                    const Tensor& grad_weight, const Threads& threads) {
  if (input.dtype == DType::kFloat64) {
    plan_of<double>(problem, threads.count).run(grad_output, input, grad_weight, threads);
  } else {
    plan_of<float>(problem, threads.count).run(grad_output, input, grad_weight, threads);
  }
}

}  // namespace symconv::cpu
