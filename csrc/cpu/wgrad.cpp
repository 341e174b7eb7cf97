// wgrad's loops: gW[row][column][k] = sum over points of gu[row, slot of k][point] X[k][column][point], then
// the transpose of the weight fold.
//
// A work item sums a share of the points for a share of the columns, tile by tile: the slots of grad_output
// go to panels [point][row], every chunk of columns is staged and folded for the whole tile, and the
// micro-kernel multiplies with k and columns as its rows and filters as its lanes. Shares of points are then
// added in order, so the result depends on the number of threads but not on their timing.
#include "wgrad.h"

#include <algorithm>

#include "kernels.h"
#include "pack.h"
#include "patch.h"
#include "scalar.h"
#include "tiling.h"

namespace symconv::cpu {
namespace {

struct ThreadScratch {
  Scratch staged, folded, slots;
  std::vector<Move> moves;
  std::vector<int> ends;
  std::vector<OutputRun> runs;
  std::vector<StagedRun> staging;
};

// Up to kMaxVectors vectors of filters of one row block; `gradient` is where its slots' panels start.
struct LanePanel {
  size_t block;
  int64_t first, filters;
  int vectors;
  int64_t gradient;      // elements per point before this panel, over all slots
  int64_t accumulators;  // filters' lanes before this panel
};

template <typename T>
class Wgrad {
 public:
  Wgrad(const Problem& problem, int threads)
      : c_(Convolution::fprop(problem)),
        kernels_(kernels<T>()),
        tiling_(wgrad_tiling(c_, kernels_.lanes, kernels_.l2_bytes, sizeof(T))),
        patch_(c_, tiling_, kernels_.lanes, sizeof(T)),
        packing_(c_, patch_, tiling_.columns, kernels_.rows) {
    int64_t gradient = 0;
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      const int64_t step = kernels_.panel();
      for (int64_t first = 0; first < c_.rows[b].orbits; first += step) {
        const int64_t filters = std::min(step, c_.rows[b].orbits - first);
        const int vectors = static_cast<int>(ceil_div(filters, kernels_.lanes));
        panels_.push_back({b, first, filters, vectors, gradient, lanes_});
        gradient += vectors * kernels_.lanes * c_.rows[b].size();
        lanes_ += vectors * kernels_.lanes;
      }
    }
    gradient_ = gradient;
    points_ = ceil_div(patch_.max_points(), kernels_.lanes) * kernels_.lanes;
    if (points_ / (64 / static_cast<int64_t>(sizeof(T))) % 2 == 0)
      points_ += 64 / sizeof(T);  // odd: see Patch::plane_
    for (const Chunk& chunk : patch_.chunks()) {
      before_.push_back(columns_);
      columns_ += chunk.columns;
    }
    // Shares: of columns if adding up shares of points would cost more than preparing grad_output for each
    // share.
    const int64_t wanted = ceil_div(threads, c_.groups),
                  chunks = static_cast<int64_t>(patch_.chunks().size());
    const double weights = static_cast<double>(columns_) * lanes_ * c_.taps();
    const double gradients = static_cast<double>(c_.output_rows()) * c_.output[2] * c_.row_channels;
    if (weights > gradients / 2 && chunks >= wanted) {
      column_shares_ = wanted;
    } else {
      point_shares_ = std::min(wanted, patch_.tiles());
    }
  }

  void run(const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads& threads) const {
    static thread_local Scratch sums;
    const int64_t share = columns_ * c_.taps() * lanes_;  // accumulators of a group's share of points
    T* accumulators = sums.get<T>(c_.groups * point_shares_ * share);
    const int64_t chunks = static_cast<int64_t>(patch_.chunks().size()), tiles = patch_.tiles();
    threads.run(c_.groups * column_shares_ * point_shares_, [&](int64_t begin, int64_t end) {
      static thread_local ThreadScratch scratch;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / (column_shares_ * point_shares_);
        const int64_t columns = i / point_shares_ % column_shares_, points = i % point_shares_;
        T* target = accumulators + (group * point_shares_ + points) * share;
        const int64_t first = tiles * points / point_shares_, last = tiles * (points + 1) / point_shares_;
        for (int64_t t = first; t < last; ++t) {
          add_tile(group, patch_.tile(t), chunks * columns / column_shares_,
                   chunks * (columns + 1) / column_shares_, grad_output, input, target, t > first, scratch);
        }
      }
    });
    threads.run(c_.groups * chunks * static_cast<int64_t>(panels_.size()), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t panels = static_cast<int64_t>(panels_.size());
        const int64_t group = i / panels / chunks;
        unfold(group, i / panels % chunks, panels_[i % panels], accumulators + group * point_shares_ * share,
               share, grad_weight);
      }
    });
  }

 private:
  // Points whose products are summed in one chain: more would cost accuracy in float32.
  static constexpr int64_t kSummed = 128;

  // Accumulator of coefficient k of column j of a chunk, for the first lane of a panel.
  int64_t accumulator(int64_t chunk, const LanePanel& panel, int64_t k, int64_t j) const {
    const int64_t n = patch_.chunks()[chunk].columns;
    return (before_[chunk] * lanes_ + panel.accumulators * n) * c_.taps() +
           (k * n + j) * panel.vectors * kernels_.lanes;
  }

  void add_tile(int64_t group, const Tile& tile, int64_t first_chunk, int64_t last_chunk,
                const Tensor& grad_output, const Tensor& input, T* accumulators, bool accumulate,
                ThreadScratch& scratch) const {
    T* slots = scratch.slots.get<T>(gradient_ * points_);
    T* staged = scratch.staged.get<T>(patch_.staged_elements());
    T* folded = scratch.folded.get<T>(c_.taps() * tiling_.columns * points_ + kernels_.lanes);
    const int64_t points = patch_.points(tile);
    prepare_slots(group, tile, grad_output, slots, scratch);
    patch_.staging(tile, input, scratch.staging);
    patch_.moves(tile, points_, scratch.moves, scratch.ends);
    for (int64_t k = first_chunk; k < last_chunk; ++k) {
      const Chunk& chunk = patch_.chunks()[k];
      patch_.stage(kernels_, scratch.staging, chunk, group, input, staged);
      patch_.fold(kernels_, chunk, 0, chunk.columns, scratch.moves.data(),
                  static_cast<int>(scratch.moves.size()), staged, folded, points_);
      for (const LanePanel& panel : panels_) {
        const std::vector<Slot>& of_block = packing_.slots(panel.block);
        const int64_t width = panel.vectors * kernels_.lanes;
        for (size_t q = 0; q < of_block.size(); ++q) {
          for (int64_t point = 0; point < points; point += kSummed) {
            const Segment<T> segment{slots + (panel.gradient + q * width) * points_ + point * width,
                                     std::min(kSummed, points - point)};
            for (const Slot::Run& run : of_block[q].runs) {
              const int64_t rows = run.count * chunk.columns;
              const T* a = folded + run.first * chunk.columns * points_ + point;
              T* c = accumulators + accumulator(k, panel, run.first, 0);
              for (int64_t r = 0; r < rows; r += kernels_.rows) {
                kernels_.gemm(static_cast<int>(std::min<int64_t>(kernels_.rows, rows - r)), panel.vectors,
                              a + r * points_, points_, 1, &segment, 1, width, c + r * width, width,
                              accumulate || point > 0);
              }
            }
          }
        }
      }
    }
  }

  // The butterfly of the tile's grad_output: for each panel of filters and slot, [point][filter].
  void prepare_slots(int64_t group, const Tile& tile, const Tensor& grad_output, T* slots,
                     ThreadScratch& scratch) const {
    patch_.runs(tile, 0, patch_.points(tile), grad_output, scratch.runs);
    const int64_t element = element_size(grad_output.dtype);
    for (const LanePanel& panel : panels_) {
      const Block& block = c_.rows[panel.block];
      const int64_t width = panel.vectors * kernels_.lanes;
      T* target = slots + panel.gradient * points_;
      if (panel.filters < width) std::fill_n(target, block.size() * width * points_, T(0));
      for (const OutputRun& run : scratch.runs) {
        const void* source[kMaxTerms];
        for (int copy = 0; copy < block.size(); ++copy) {
          const int64_t channel = group * c_.row_channels + block.channel(panel.first, copy);
          source[subset_index(block.mask, reflection(block.mask, copy))] =
              static_cast<const char*>(grad_output.data) +
              (run.offset + channel * grad_output.strides[1]) * element;
        }
        kernels_.slots(grad_output.dtype, block.size(), source, grad_output.strides[1],
                       grad_output.strides[4], panel.filters, run.count, target + run.point * width, width,
                       width * points_);
      }
    }
  }

  // Adds the shares of points and turns coefficients into taps.
  void unfold(int64_t group, int64_t chunk_index, const LanePanel& panel, const T* accumulators,
              int64_t share, const Tensor& grad_weight) const {
    const Chunk& chunk = patch_.chunks()[chunk_index];
    TapOffsets offsets[kAxes];
    for (int d = 0; d < kAxes; ++d) {
      for (int64_t t = 0; t < c_.kernel[d]; ++t) offsets[d].push_back(t * grad_weight.strides[2 + d]);
    }
    std::vector<int64_t> position(c_.taps());
    for (int64_t k = 0; k < c_.taps(); ++k) position[k] = k;
    const std::vector<TapSet> sets = tap_sets(patch_.fold(), 0, offsets, position);
    const int64_t row = group * c_.row_filters() + c_.rows[panel.block].first + panel.first;
    const int64_t width = panel.vectors * kernels_.lanes;
    for (int64_t j = 0; j < chunk.columns; ++j) {
      const int64_t column = c_.columns[chunk.block].first + chunk.first + j;
      const int64_t target = row * grad_weight.strides[0] + column * grad_weight.strides[1];
      for (const TapSet& set : sets) {
        T taps[kMaxTerms][kMaxLanes];
        for (int q = 0; q < set.terms; ++q) {
          const T* sum = accumulators + accumulator(chunk_index, panel, set.coefficient[q], j);
          for (int64_t r = 0; r < width; ++r) taps[q][r] = sum[r];
          for (int64_t s = 1; s < point_shares_; ++s) {
            for (int64_t r = 0; r < width; ++r) taps[q][r] += sum[s * share + r];
          }
        }
        for (int half = 1; half < set.terms; half *= 2) {
          for (int i = 0; i < set.terms; ++i) {
            if (i & half) continue;
            for (int64_t r = 0; r < width; ++r) {
              T pair[2] = {taps[i][r], taps[i + half][r]};
              hadamard<2>(pair);
              taps[i][r] = pair[0];
              taps[i + half][r] = pair[1];
            }
          }
        }
        const T scale = T(1) / static_cast<T>(set.terms);
        dispatch(grad_weight.dtype, [&](auto stored) {
          using Stored = decltype(stored);
          for (int e = 0; e < set.terms; ++e) {
            Stored* to = static_cast<Stored*>(grad_weight.data) + target + set.tap[0][e];
            for (int64_t r = 0; r < panel.filters; ++r)
              to[r * grad_weight.strides[0]] = Stored(taps[e][r] * scale);
          }
        });
      }
    }
  }

  static constexpr int64_t kMaxLanes = kMaxVectors * 16;

  Convolution c_;
  const Kernels<T>& kernels_;
  Tiling tiling_;
  Patch patch_;
  Packing packing_;  // for its slots
  std::vector<LanePanel> panels_;
  int64_t lanes_ = 0;            // filters of a group, each panel rounded up to vectors
  int64_t gradient_ = 0;         // the same for every slot
  int64_t points_;               // of a tile, rounded up
  std::vector<int64_t> before_;  // columns before each chunk
  int64_t columns_ = 0;
  int64_t column_shares_ = 1, point_shares_ = 1;
};

}  // namespace

void convolve_wgrad(const Problem& problem, const Tensor& grad_output, const Tensor& input,
                    const Tensor& grad_weight, const Threads& threads) {
  if (input.dtype == DType::kFloat64) {
    Wgrad<double>(problem, threads.count).run(grad_output, input, grad_weight, threads);
  } else {
    Wgrad<float>(problem, threads.count).run(grad_output, input, grad_weight, threads);
  }
}

}  // namespace symconv::cpu
