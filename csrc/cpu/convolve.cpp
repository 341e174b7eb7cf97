// fprop's loops: tiles over threads; within a tile chunk by chunk stage, fold, GEMM; after the last chunk the
// epilogue. Where the taps along v are applied to the products, strips of tiles over threads.
#include "convolve.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "kernels.h"
#include "multiply.h"
#include "pack.h"
#include "patch.h"
#include "scalar.h"
#include "tiling.h"
#include "write_sums.h"

namespace symconv::cpu {
namespace {

struct ThreadScratch {
  Scratch weights, staged, accumulators;
  std::vector<OutputRun> runs;
  std::vector<StagedRun> staging;
  std::vector<RowRange> rows;
  std::vector<Packing::Source::Panel> panels;
  MultiplyBuffers multiply;
  WriteBuffers write;
};

// Out of line: inlined, every use of the scratch would look its address up again.
[[gnu::noinline]] ThreadScratch& thread_scratch() {
  static thread_local ThreadScratch scratch;
  return scratch;
}

template <typename T>
class Convolve final : public ConvolutionPlan {
 public:
  Convolve(const Convolution& convolution, int threads, bool packed)
      : c_(convolution),
        kernels_(kernels<T>()),
        matrix_(takes_matrix(convolution, threads, packed) ? kernels_.matrix : nullptr),
        panel_rows_(matrix_ ? kTileRows : kernels_.rows),
        schedule_(schedule(convolution, unit(), threads, packed)),
        patch_(schedule_.strips > 0 ? convolution.without_v() : convolution, schedule_.tiling, kernels_.lanes,
               sizeof(T)),
        packing_(c_, patch_, schedule_.piece_columns, panel_rows_, schedule_.by_v,
                 matrix_ ? kTileElements<T> : 0),
        panel_(kernels_.lanes * schedule_.vectors),
        multiply_(c_, patch_, packing_, kernels_, matrix_, panel_rows_, panel_),
        write_(c_, packing_, kernels_),
        prepacked_(packed) {}

  const Convolution& convolution() const override { return c_; }
  int64_t packed_elements() const override { return packing_.elements(); }

  void pack(const Tensor& weight, void* packed, const Threads& threads) const override {
    packing_.pack(kernels_, weight, static_cast<T*>(packed), threads);
  }

  void run(const Tensor& source, const Tensor& weight, const void* packed_weight, const Tensor& bias,
           const Tensor& output, const Threads& threads) const override {
    const T* packed = static_cast<const T*>(packed_weight);
    static thread_local Scratch bias_scratch, packed_scratch;
    std::optional<Packing::Source> unpacked;
    if (!packed && schedule_.strips <= 1 && folds_weights_in_tiles(patch_.tiles())) {
      unpacked.emplace(packing_, weight);
    } else if (!packed) {
      T* buffer = packed_scratch.get<T>(packing_.elements());
      pack(weight, buffer, threads);
      packed = buffer;
    }
    const T* biases = nullptr;
    if (bias.data) {
      T* copy = bias_scratch.get<T>(c_.groups * c_.row_channels);
      kernels_.stage(bias.dtype, bias.data, 0, bias.strides[0], 1, c_.groups * c_.row_channels, copy, 0);
      biases = copy;
    }
    const Weights weights{packed, unpacked ? &*unpacked : nullptr};
    const int64_t splits = schedule_.row_splits;
    if (const int64_t strips = schedule_.strips; strips > 0) {
      return threads.run(c_.groups * strips * splits, [&](int64_t begin, int64_t end) {
        ThreadScratch& scratch = thread_scratch();
        const MatrixUse<T> use(matrix_);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t next = i + 1 < end ? i + 1 : i;
          run_strip(strip(i / splits), strip(next / splits), i % splits, source, weights, biases, output,
                    scratch);
        }
      });
    }
    threads.run(c_.groups * patch_.tiles() * splits, [&](int64_t begin, int64_t end) {
      ThreadScratch& scratch = thread_scratch();
      const MatrixUse<T> use(matrix_);
      for (int64_t i = begin; i < end; ++i) {
        run_tile(i / splits / patch_.tiles(), i / splits % patch_.tiles(), i % splits, source, weights,
                 biases, output, scratch);
      }
    });
  }

 private:
  static constexpr int64_t kElement = sizeof(T);

  Unit unit() const {
    Unit unit{kernels_.lanes,     kernels_.vectors,  panel_rows_,       kernels_.folds_aside,
              matrix_ != nullptr, kernels_.l1_bytes, kernels_.l2_bytes, kElement};
    if (matrix_) unit.vectors = matrix_->vectors * kTileRows / kernels_.lanes;
    return unit;
  }

  // Packed, or to be folded chunk by chunk.
  struct Weights {
    const T* packed;
    const Packing::Source* source;
  };
  // Those of chunk `k` for this part's rows.
  ChunkWeights<T> weights_of(int64_t group, size_t k, const Weights& weights, ThreadScratch& scratch) const {
    if (!weights.source) return {weights.packed, 0};
    const int64_t first = packing_.offset(group, k, {0, 0}, 0, 0);
    T* packed = scratch.weights.template get<T>(packing_.chunk_elements(k));
    scratch.panels.clear();
    weights.source->panels(k, k + 1, scratch.rows, scratch.panels);
    const int64_t panels = static_cast<int64_t>(scratch.panels.size());
    weights.source->fold(kernels_, scratch.panels, group * panels, (group + 1) * panels, packed, first);
    return {packed, first};
  }

  // Part `split` of every row block, in whole panels.
  void rows_of(int64_t split, std::vector<RowRange>& rows) const {
    rows.clear();
    for (const Block& block : c_.rows) {
      const int64_t panels = ceil_div(block.orbits, panel_rows_);
      const auto edge = [&](int64_t s) {
        return std::min(block.orbits, panels * s / schedule_.row_splits * panel_rows_);
      };
      rows.push_back({edge(split), edge(split + 1)});
    }
  }

  void run_tile(int64_t group, int64_t index, int64_t split, const Tensor& source, const Weights& weights,
                const T* bias, const Tensor& output, ThreadScratch& scratch) const {
    const Tile tile = patch_.tile(index);
    const int64_t points = patch_.points(tile);
    rows_of(split, scratch.rows);
    int64_t accumulator_rows = 0;
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      accumulator_rows += scratch.rows[b].count() * c_.rows[b].size();
    }
    if (accumulator_rows == 0) return;
    const int64_t row = ceil_div(points, panel_) * panel_;
    T* accumulators = scratch.accumulators.get<T>(accumulator_rows * row);
    patch_.runs(tile, 0, points, output, scratch.runs);
    if (patch_.chunks().empty()) std::memset(accumulators, 0, accumulator_rows * row * sizeof(T));
    compute_sums(group, tile, patch_.below(index), source, weights, output, accumulators, row, scratch);
    write_.write({group, bias, output, scratch.runs}, scratch.rows, accumulators, row, points, scratch.write);
  }

  // Points of rows that follow one another: outputs [first, last), which need the sums of [low, high).
  struct Strip {
    int64_t group, first, last, low, high;
  };
  Strip strip(int64_t index) const {
    const int64_t strips = schedule_.strips, part = index % strips, width = c_.output[2];
    const int64_t rows = c_.output_rows(), image = c_.output[0] * c_.output[1] * width;
    const int64_t first = rows * part / strips * width, last = rows * (part + 1) / strips * width;
    return {index / strips, first, last, std::max(first / image * image, first - points_above()),
            std::min(ceil_div(last, image) * image, last + points_below())};
  }
  int64_t points_above() const { return c_.rows_above() * c_.output[2]; }
  int64_t points_below() const { return c_.rows_below() * c_.output[2]; }

  // A strip, tile by tile, where each tap along v has sums of its own. The slots of a tile's last points need
  // sums of the next tile: their own are held until then, in front of the next ones. `next_strip`: the strip
  // that comes after it, or itself.
  void run_strip(const Strip& strip, const Strip& next_strip, int64_t split, const Tensor& source,
                 const Weights& weights, const T* bias, const Tensor& output, ThreadScratch& scratch) const {
    const int64_t group = strip.group;
    rows_of(split, scratch.rows);
    int64_t sum_rows = 0;
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      sum_rows += scratch.rows[b].count() * static_cast<int64_t>(packing_.sums(b).size());
    }
    if (sum_rows == 0) return;
    const int64_t lanes = kernels_.lanes, most = schedule_.tiling.rows, above = points_above(),
                  below = points_below();
    const int64_t held = (ceil_div(above + below, lanes) + 1) * lanes,
                  row = held + ceil_div(most, panel_) * panel_;
    T* sums = scratch.accumulators.get<T>(sum_rows * row + lanes);
    int64_t done = strip.first;  // output points that are written
    for (int64_t begin = strip.low; begin < strip.high; begin += most) {
      const auto tile_of = [&](const Strip& of, int64_t point) {
        return Tile{point, std::min(point + most, of.high), 0, 1};
      };
      const Tile tile = tile_of(strip, begin);
      const bool ends = tile.last_row == strip.high;
      const Tile next = !ends ? tile_of(strip, tile.last_row)
                        : next_strip.group == group && next_strip.first != strip.first
                            ? tile_of(next_strip, next_strip.low)
                            : Tile{};
      // Whole vectors, so that the output's are written where vectors begin.
      const int64_t whole = std::max<int64_t>(0, tile.last_row - below - strip.first) / lanes * lanes;
      const int64_t ready = ends ? strip.last : std::min(strip.first + whole, strip.last);
      patch_.runs({done, ready, 0, 1}, 0, ready - done, output, scratch.runs);
      compute_sums(group, tile, next, source, weights, output, sums + held, row, scratch);
      write_.write_by_v({group, bias, output, scratch.runs}, scratch.rows, sums + held - begin, row, done,
                        ready, scratch.write);
      done = ready;
      if (ends) return;
      hold_sums(strip.low, ready, tile, scratch.rows, sums + held, row);
    }
  }

  // Of each sum what outputs from `ready` on need of a tile and of what was held before it, back to point
  // `low`, to the front of the next tile's.
  void hold_sums(int64_t low, int64_t ready, const Tile& tile, const std::vector<RowRange>& rows, T* sums,
                 int64_t row) const {
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      for (const Sum& sum : packing_.sums(b)) {
        int64_t first = tile.last_row;
        for (const Sum::Tap& tap : sum.taps) {
          first = std::min(first, std::max(low, ready + c_.reach_v(tap.v) * c_.output[2]));
        }
        for (int64_t r = rows[b].count(); r > 0; --r, sums += row) {
          std::memmove(sums - (tile.last_row - first), sums + (first - tile.first_row),
                       (tile.last_row - first) * sizeof(T));
        }
      }
    }
  }

  // The sums of a tile's points, chunk by chunk. `next`: the tile that comes after it, if it has rows.
  void compute_sums(int64_t group, const Tile& tile, const Tile& next, const Tensor& source,
                    const Weights& weights, const Tensor& output, T* sums, int64_t row,
                    ThreadScratch& scratch) const {
    T* staged = scratch.staged.get<T>(patch_.staged_elements() + kTileRows);  // a vector of points is read
    MultiplyBuffers& buffers = scratch.multiply;
    const bool in_place = patch_.in_place(kernels_, source);
    patch_.moves(tile, panel_, in_place ? &source : nullptr, buffers.moves, buffers.ends, buffers.masks);
    if (!in_place) patch_.staging(tile, source, scratch.staging);
    for (size_t k = 0; k < patch_.chunks().size(); ++k) {
      const Chunk& chunk = patch_.chunks()[k];
      if (!in_place) patch_.stage(kernels_, scratch.staging, chunk, group, source, staged);
      const auto planes =
          in_place ? patch_.unstaged<T>(tile, chunk, group, source) : patch_.staged<T>(chunk, staged);
      multiply_.plan(group, k, scratch.rows, weights_of(group, k, weights, scratch), buffers);
      look_ahead(group, tile, next, k, source, weights, output, scratch);
      multiply_.run(patch_.points(tile), k, planes, sums, row, buffers);
    }
  }

  // Whether the tensors may still lie in a core's own cache.
  bool near(const Tensor& source, const Tensor& output) const {
    const int64_t outputs = c_.output[0] * c_.output[1] * c_.output[2] * c_.row_channels;
    const int64_t sources = c_.source[0] * c_.source[1] * c_.source[2] * c_.column_channels;
    const int64_t bytes =
        c_.batch * c_.groups * (sources * element_size(source.dtype) + outputs * element_size(output.dtype));
    return bytes < kernels_.l2_bytes / 4;
  }

  // Plans what the GEMM of chunk `k` asks for on the side: what is staged next and, with the last chunk, the
  // output; weights that come from far.
  void look_ahead(int64_t group, const Tile& tile, const Tile& after, size_t k, const Tensor& source,
                  const Weights& weights, const Tensor& output, ThreadScratch& scratch) const {
    // Packed weights that are read more often than that would only be driven out by those that come next.
    constexpr int64_t kFewPanels = 2;
    LookAhead& ahead = scratch.multiply.ahead;
    ahead.clear();
    const bool last = k + 1 == patch_.chunks().size();
    if (!near(source, output)) {
      const Chunk& chunk = patch_.chunks()[last ? 0 : k + 1];
      ahead.add_source(c_, patch_, group, last ? after : tile, chunk, last, source);
      if (last) ahead.add_output(c_, group, scratch.rows, schedule_.row_splits == 1, scratch.runs, output);
    }
    const int64_t panels = ceil_div(patch_.points(tile), panel_);
    if (!last && weights.source) {
      weights.source->ahead(group, k + 1, scratch.rows, ahead);
    } else if (!last && prepacked_ && panels <= kFewPanels &&
               packing_.elements() * kElement > kernels_.l2_bytes / 2) {
      packing_.ahead(group, k + 1, scratch.rows, weights.packed, kElement, ahead);
    }
    ahead.spread(scratch.multiply.all_k * panels);
  }

  const Convolution c_;
  const Kernels<T>& kernels_;
  const MatrixKernels<T>* matrix_;  // null: not used
  int panel_rows_;                  // of packed weights
  Schedule schedule_;
  Patch patch_;
  Packing packing_;
  int64_t panel_;  // points that are multiplied at once
  Multiply<T> multiply_;
  WriteSums<T> write_;
  bool prepacked_;
};

}  // namespace

std::unique_ptr<const ConvolutionPlan> plan_convolution(const Convolution& convolution, DType dtype,
                                                        int threads, bool packed) {
  if (dtype == DType::kFloat64) return std::make_unique<Convolve<double>>(convolution, threads, packed);
  return std::make_unique<Convolve<float>>(convolution, threads, packed);
}

}  // namespace symconv::cpu
