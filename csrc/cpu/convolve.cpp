// fprop's loops: tiles over threads; within a tile chunk by chunk stage, fold, GEMM; after the last chunk the
// epilogue. Where the taps along v are applied to the products, strips of tiles over threads.
#include "convolve.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "kernels.h"
#include "look_ahead.h"
#include "pack.h"
#include "patch.h"
#include "scalar.h"
#include "tiling.h"

namespace symconv::cpu {
namespace {

// A call of the micro-kernel.
struct Call {
  int m;
  const void* packed;
  const Sum* sum;
  int64_t target;  // row of accumulators
};

// Output points [first, last) to which the same taps along v reach: bit t for tap t.
struct Reached {
  int64_t first, last;
  uint32_t taps;
};

constexpr int64_t kBlockVectors = 4;  // of points, whose channels are written together

struct ThreadScratch {
  Scratch weights, staged, folded, tiles, accumulators, slots, segments, matrix_calls;
  std::vector<Move> moves;
  std::vector<int> ends;
  std::vector<int64_t> copied_from;  // of each panel
  std::vector<uint32_t> masks;
  std::vector<OutputRun> runs;
  std::vector<StagedRun> staging;
  std::vector<RowRange> rows;
  std::vector<Call> calls;
  std::vector<const void*> lines;
  std::vector<size_t> call_ends;  // of each piece
  LookAhead ahead;
  std::vector<Reached> reached;
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
    if (!packed && schedule_.strips == 0 && folds_weights_in_tiles(patch_.tiles())) {
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
    if (const int64_t strips = schedule_.strips; strips > 0) {
      return threads.run(c_.groups * c_.batch * strips, [&](int64_t begin, int64_t end) {
        ThreadScratch& scratch = thread_scratch();
        const MatrixUse<T> use(matrix_);
        for (int64_t i = begin; i < end; ++i) {
          run_strip(i, i + 1 < end ? i + 1 : i, source, {packed, nullptr}, biases, output, scratch);
        }
      });
    }
    const int64_t splits = schedule_.row_splits;
    threads.run(c_.groups * patch_.tiles() * splits, [&](int64_t begin, int64_t end) {
      ThreadScratch& scratch = thread_scratch();
      const MatrixUse<T> use(matrix_);
      for (int64_t i = begin; i < end; ++i) {
        run_tile(i / splits / patch_.tiles(), patch_.tile(i / splits % patch_.tiles()), i % splits, source,
                 {packed, unpacked ? &*unpacked : nullptr}, biases, output, scratch);
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
  // What plan_calls reads: element packing_.offset() - first.
  struct ChunkWeights {
    const T* packed;
    int64_t first;
  };

  // Those of chunk `k` for this part's rows.
  ChunkWeights weights_of(int64_t group, size_t k, const Weights& weights, ThreadScratch& scratch) const {
    if (!weights.source) return {weights.packed, 0};
    const int64_t first = packing_.offset(group, k, {0, 0}, 0, 0);
    T* packed = scratch.weights.template get<T>(packing_.chunk_elements(k));
    for (const Piece& piece : packing_.pieces(k)) {
      for (size_t b = 0; b < c_.rows.size(); ++b) {
        for (int64_t row = scratch.rows[b].first; row < scratch.rows[b].last; row += panel_rows_) {
          weights.source->fold(kernels_, group, k, piece, b, row,
                               packed + (packing_.offset(group, k, piece, b, row) - first));
        }
      }
    }
    return {packed, first};
  }

  void run_tile(int64_t group, const Tile& tile, int64_t split, const Tensor& source, const Weights& weights,
                const T* bias, const Tensor& output, ThreadScratch& scratch) const {
    const int64_t points = patch_.points(tile);
    // Rows of accumulators: for each row block the split's part of every slot.
    int64_t accumulator_rows = 0;
    scratch.rows.clear();
    for (const Block& block : c_.rows) {
      const int64_t panels = ceil_div(block.orbits, panel_rows_);
      const auto edge = [&](int64_t s) {
        return std::min(block.orbits, panels * s / schedule_.row_splits * panel_rows_);
      };
      scratch.rows.push_back({edge(split), edge(split + 1)});
      accumulator_rows += (edge(split + 1) - edge(split)) * block.size();
    }
    if (accumulator_rows == 0) return;
    const int64_t row = ceil_div(points, panel_) * panel_;
    T* accumulators = scratch.accumulators.get<T>(accumulator_rows * row);
    patch_.runs(tile, 0, points, output, scratch.runs);
    if (patch_.chunks().empty()) std::memset(accumulators, 0, accumulator_rows * row * sizeof(T));
    compute_sums(group, tile, patch_.after(tile), source, weights, output, accumulators, row, scratch);
    write(group, accumulators, row, bias, output, scratch);
  }

  // Points of an image's rows: outputs [first, last), which need the sums of [low, high).
  struct Strip {
    int64_t group, first, last, low, high;
  };
  Strip strip(int64_t index) const {
    const int64_t parts = schedule_.strips, width = c_.output[2], rows = c_.output[0] * c_.output[1];
    const int64_t part = index % parts, image = index / parts % c_.batch * rows * width;
    const int64_t first = image + rows * part / parts * width,
                  last = image + rows * (part + 1) / parts * width;
    return {index / parts / c_.batch, first, last, std::max(image, first - before()),
            std::min(image + rows * width, last + after())};
  }
  // Points that the taps along v reach up and down.
  int64_t before() const { return std::max<int64_t>(0, -c_.reach_v(0)) * c_.output[2]; }
  int64_t after() const { return std::max<int64_t>(0, c_.reach_v(c_.kernel[1] - 1)) * c_.output[2]; }

  // A strip, tile by tile, where each tap along v has sums of its own. The slots of a tile's last points need
  // sums of the next tile: their own are held until then, in front of the next ones.
  void run_strip(int64_t index, int64_t next_index, const Tensor& source, const Weights& weights,
                 const T* bias, const Tensor& output, ThreadScratch& scratch) const {
    const Strip strip = this->strip(index), next_strip = this->strip(next_index);
    const int64_t group = strip.group;
    int64_t sum_rows = 0;
    scratch.rows.clear();
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      scratch.rows.push_back({0, c_.rows[b].orbits});
      sum_rows += c_.rows[b].orbits * static_cast<int64_t>(packing_.sums(b).size());
    }
    const int64_t lanes = kernels_.lanes, most = schedule_.tiling.rows, before = this->before(),
                  after = this->after();
    const int64_t held = (ceil_div(before + after, lanes) + 1) * lanes,
                  row = held + ceil_div(most, panel_) * panel_;
    T* sums = scratch.accumulators.get<T>(sum_rows * row + lanes);
    int64_t done = strip.first, kept = strip.low;  // output points that are written, sums that are held
    for (int64_t begin = strip.low; begin < strip.high; begin += most) {
      const auto tile_of = [&](const Strip& of, int64_t point) {
        return Tile{point, std::min(point + most, of.high), 0, 1};
      };
      const Tile tile = tile_of(strip, begin);
      const bool ends = tile.last_row == strip.high;
      const Tile next = !ends ? tile_of(strip, tile.last_row)
                        : next_strip.group == group && next_index != index
                            ? tile_of(next_strip, next_strip.low)
                            : Tile{};
      // Whole vectors, so that the output's are written where vectors begin.
      const int64_t whole = std::max<int64_t>(0, tile.last_row - after - strip.first) / lanes * lanes;
      const int64_t ready = ends ? strip.last : std::min(strip.first + whole, strip.last);
      patch_.runs({done, ready, 0, 1}, 0, ready - done, output, scratch.runs);
      compute_sums(group, tile, next, source, weights, output, sums + held, row, scratch);
      write_by_v(group, sums + held - begin, row, done, ready, bias, output, scratch);
      done = ready;
      kept = std::max(kept, ready - before);
      if (ends) return;
      for (int64_t r = 0; r < sum_rows; ++r) {
        T* to = sums + r * row + held;
        std::memmove(to - (tile.last_row - kept), to + (kept - begin), (tile.last_row - kept) * sizeof(T));
      }
    }
  }

  // Output points [first, last) from the sums of the taps along v, of which point p of a row is at sums[p]:
  // block by block of slots that stay in L1.
  void write_by_v(int64_t group, const T* sums, int64_t row, int64_t first, int64_t last, const T* bias,
                  const Tensor& output, ThreadScratch& scratch) const {
    find_reached(first, last, scratch.reached);
    const bool planar = output.strides[4] * c_.output_step[2] == 1;
    const int64_t most_orbits = planar ? 4 : kernels_.lanes,
                  most_points = planar ? last - first : kBlockVectors * kernels_.lanes;
    const int64_t slot_row = ceil_div(most_points, kernels_.lanes) * kernels_.lanes + kernels_.lanes;
    T* slots = scratch.slots.get<T>(most_orbits * kMaxOrbit * slot_row);
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      const Block& block = c_.rows[b];
      for (int64_t orbit = 0; orbit < block.orbits; orbit += most_orbits) {
        const int64_t orbits = std::min(most_orbits, block.orbits - orbit);
        for (int64_t begin = first; begin < last; begin += most_points) {
          const int64_t end = std::min(last, begin + most_points);
          for (const Reached& reached : scratch.reached) {
            const int64_t low = std::max(begin, reached.first), high = std::min(end, reached.last);
            if (low < high) {
              compute_slots(b, orbit, orbits, reached.taps, sums + low, row, high - low,
                            slots + (low - begin), slot_row);
            }
          }
          write_orbits(group, b, orbit, orbits, slots, slot_row, orbits * slot_row, begin - first,
                       end - first, bias, output, scratch);
        }
      }
      sums += block.orbits * static_cast<int64_t>(packing_.sums(b).size()) * row;
    }
  }

  // Which taps along v reach the source from the output points [first, last).
  void find_reached(int64_t first, int64_t last, std::vector<Reached>& reached) const {
    const int64_t width = c_.output[2];
    reached.clear();
    for (int64_t point = first; point < last;) {
      const int64_t y = point / width % c_.output[1], end = std::min(last, (point / width + 1) * width);
      uint32_t taps = 0;
      for (int64_t t = 0; t < c_.kernel[1]; ++t) {
        const int64_t at = y + c_.reach_v(t);
        if (at >= 0 && at < c_.source[1]) taps |= uint32_t{1} << t;
      }
      if (!reached.empty() && reached.back().taps == taps) {
        reached.back().last = end;
      } else {
        reached.push_back({point, end, taps});
      }
      point = end;
    }
  }

  // The slots of some orbits of a block, for `points` points that the same taps along v reach.
  void compute_slots(size_t b, int64_t first_orbit, int64_t orbits, uint32_t taps, const T* sums, int64_t row,
                     int64_t points, T* slots, int64_t slot_row) const {
    for (int q = 0; q < c_.rows[b].size(); ++q) {
      SignedRow<T> terms[2 * kMostTapsOfV];
      int count = 0;
      const T* of_sum = sums + first_orbit * row;
      for (const Sum& sum : packing_.sums(b)) {
        if (sum.slot == q) {
          for (const Sum::Tap& tap : sum.taps) {
            if (!(taps >> tap.v & 1)) continue;
            terms[count++] = {of_sum + c_.reach_v(tap.v) * c_.output[2], static_cast<T>(tap.sign)};
          }
        }
        of_sum += c_.rows[b].orbits * row;
      }
      for (int64_t orbit = 0; orbit < orbits; ++orbit, slots += slot_row) {
        kernels_.add_rows(terms, count, points, slots);
        for (int i = 0; i < count; ++i) terms[i].data += row;
      }
    }
  }

  // The sums of a tile's points, chunk by chunk. `next`: the tile that comes after it, if it has rows.
  void compute_sums(int64_t group, const Tile& tile, const Tile& next, const Tensor& source,
                    const Weights& weights, const Tensor& output, T* sums, int64_t row,
                    ThreadScratch& scratch) const {
    T* staged = scratch.staged.get<T>(patch_.staged_elements() + kTileRows);  // a vector of points is read
    patch_.moves(tile, panel_, scratch.moves, scratch.ends, scratch.masks);
    patch_.staging(tile, source, scratch.staging);
    for (size_t k = 0; k < patch_.chunks().size(); ++k) {
      const Chunk& chunk = patch_.chunks()[k];
      auto planes = patch_.unstaged(kernels_, tile, chunk, group, source);
      if (!planes.data) {
        patch_.stage(kernels_, scratch.staging, chunk, group, source, staged);
        planes = patch_.staged<T>(chunk, staged);
      }
      plan_calls(group, k, weights_of(group, k, weights, scratch), scratch);
      look_ahead(group, tile, next, k, source, weights, output, scratch);
      multiply(patch_.points(tile), k, planes, sums, row, scratch);
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
    LookAhead& ahead = scratch.ahead;
    ahead.clear();
    const bool last = k + 1 == patch_.chunks().size();
    if (!near(source, output)) {
      const Chunk& chunk = patch_.chunks()[last ? 0 : k + 1];
      ahead.add_source(c_, patch_, group, last ? after : tile, chunk, last, source);
      if (last) ahead.add_output(c_, group, scratch.rows, schedule_.row_splits == 1, scratch.runs, output);
    }
    if (!last && weights.source) {
      weights.source->ahead(group, k + 1, scratch.rows, ahead.weights());
    } else if (!last && prepacked_ && packing_.elements() * kElement > kernels_.l2_bytes / 2) {
      packing_.ahead(group, k + 1, scratch.rows, weights.packed, kElement, ahead.weights());
    }
    ahead.spread(static_cast<int64_t>(scratch.calls.size()) * ceil_div(patch_.points(tile), panel_));
  }

  // What the micro-kernel is called for with each folded piece of a chunk: a panel of rows of every sum.
  void plan_calls(int64_t group, size_t k, const ChunkWeights& weights, ThreadScratch& scratch) const {
    scratch.calls.clear();
    scratch.call_ends.clear();
    for (const Piece& piece : packing_.pieces(k)) {
      int64_t target = 0;
      for (size_t b = 0; b < c_.rows.size(); ++b) {
        const RowRange& range = scratch.rows[b];
        for (const Sum& sum : packing_.sums(b)) {
          for (int64_t r = range.first; r < range.last; r += panel_rows_) {
            Call& call = scratch.calls.emplace_back();  // in place: a copy would wait for the stores
            call.m = static_cast<int>(std::min<int64_t>(panel_rows_, range.last - r));
            call.packed = weights.packed + (packing_.offset(group, k, piece, b, r) - weights.first) +
                          sum.first * packing_.coefficient_elements(piece, call.m);
            call.sum = &sum;
            call.target = target + r - range.first;
          }
          target += range.last - range.first;
        }
      }
      scratch.call_ends.push_back(scratch.calls.size());
    }
  }

  // Adds the products of one chunk of a tile to the sums, panel by panel and piece by piece.
  void multiply(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                ThreadScratch& scratch) const {
    if (matrix_) return multiply_tiles(points, k, planes, sums, sums_row, scratch);
    if (multiply_planes(points, k, planes, sums, sums_row, scratch)) return;
    fold_and_multiply(points, k, planes, sums, sums_row, scratch);
  }

  // With a matrix unit: as many columns as a tile is deep are folded and split at a time, until all of a
  // piece are there; the piece before is multiplied on the side.
  void multiply_tiles(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                      ThreadScratch& scratch) const {
    const std::vector<Piece>& pieces = packing_.pieces(k);
    const int64_t coefficients = patch_.coefficients();
    const int64_t size =
        coefficients * ceil_div(pieces[0].columns, kTileDepth) * matrix_->vectors * kTileElements<T>;
    T* folded = scratch.folded.get<T>(coefficients * kTileDepth * panel_);
    T* const buffer = scratch.tiles.get<T>(2 * size);
    T* const buffers[] = {buffer, buffer + size};  // of this step and the next
    size_t next = 0;
    MatrixWork<T> work{};
    for (int64_t i = 0; i < ceil_div(points, panel_); ++i) {
      const int first = i == 0 ? 0 : scratch.ends[i - 1], moves = scratch.ends[i] - first;
      const int64_t point = i * panel_;
      const int vectors = static_cast<int>(ceil_div(std::min(panel_, points - point), kTileRows));
      const int64_t step = vectors * kTileElements<T>;  // from depth to depth
      const int64_t copied = patch_.copied_from(patch_.chunks()[k], scratch.moves, first, moves, planes);
      for (size_t j = 0; j < pieces.size(); ++j) {
        T* tiles = buffers[next++ % 2];
        const int64_t depth = ceil_div(pieces[j].columns, kTileDepth);
        for (int64_t d = 0; d < depth; ++d) {
          const int64_t column = pieces[j].first + d * kTileDepth;
          const int columns =
              static_cast<int>(std::min<int64_t>(kTileDepth, pieces[j].columns - d * kTileDepth));
          if (copied >= 0) {
            matrix_->split_points(columns, vectors, planes.data + column * planes.column + copied,
                                  planes.column, tiles + d * step, work);
            continue;
          }
          FoldArguments<T> fold;
          patch_.fold(patch_.chunks()[k], column, columns, scratch.moves, first, moves, scratch.masks, planes,
                      folded, panel_, fold);
          matrix_->fold(fold, work);
          for (int64_t q = 0; q < coefficients; ++q) {
            matrix_->split_points(columns, vectors, folded + q * columns * panel_, panel_,
                                  tiles + (q * depth + d) * step, work);
          }
        }
        matrix_->finish(work);
        work = plan_work(j, vectors, k, tiles, depth, step, sums + point, sums_row, scratch);
      }
    }
    matrix_->finish(work);
  }

  // The products of one piece of a panel, whose tiles are complete, with all rows of the weight.
  MatrixWork<T> plan_work(size_t j, int vectors, size_t k, const T* tiles, int64_t depth, int64_t step,
                          T* sums, int64_t sums_row, ThreadScratch& scratch) const {
    const bool accumulate = k > 0 || j > 0;
    const size_t first = j == 0 ? 0 : scratch.call_ends[j - 1], count = scratch.call_ends[j] - first;
    int64_t runs = 0;
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      for (const Sum& sum : packing_.sums(b)) runs += static_cast<int64_t>(sum.runs.size());
    }
    Segment<T>* segment = scratch.segments.get<Segment<T>>(runs + 1);
    MatrixCall<T>* const calls = scratch.matrix_calls.get<MatrixCall<T>>(static_cast<int64_t>(count));
    MatrixCall<T>* end = calls;
    scratch.lines.resize(count * LookAhead::kMostLines);
    MatrixWork<T> work{};
    int64_t products = 0;
    const Sum* sum = nullptr;
    for (size_t i = first; i < first + count; ++i) {
      const Call& call = scratch.calls[i];
      T* const target = sums + call.target * sums_row;
      work.line_count += scratch.ahead.take(scratch.lines.data() + work.line_count);
      if (call.sum->runs.empty()) {  // no tap has this parity
        for (int r = 0; r < call.m && !accumulate; ++r) std::fill_n(target + r * sums_row, panel_, T(0));
        continue;
      }
      if (call.sum != sum) {
        if (sum) segment += sum->runs.size();
        sum = call.sum;
        Segment<T>* next = segment;
        for (const Sum::Run& run : sum->runs) *next++ = {tiles + run.first * depth * step, run.count * depth};
      }
      products += sum->count * depth * vectors;
      *end++ = {
          call.m, vectors,   static_cast<const T*>(call.packed), segment, static_cast<int>(sum->runs.size()),
          target, accumulate};
    }
    work.call = calls;
    work.end = end;
    work.b_row = step;
    work.c_row = sums_row;
    work.lines = scratch.lines.data();
    // Vectors that are folded and split while this is done: three for each that is folded, about.
    const int64_t others = patch_.coefficients() * depth * kTileDepth * vectors * 3;
    work.interval = std::max<int64_t>(1, others / std::max<int64_t>(1, products));
    return work;
  }

  int vectors_of(int64_t points) const {
    return static_cast<int>(ceil_div(std::min(panel_, points), kernels_.lanes));
  }

  // Where the fold would only copy: with the planes themselves. Returns whether that is so.
  bool multiply_planes(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                       ThreadScratch& scratch) const {
    const size_t panels = scratch.ends.size();
    std::vector<int64_t>& from = scratch.copied_from;
    from.clear();
    for (size_t i = 0; i < panels; ++i) {
      const int first = i == 0 ? 0 : scratch.ends[i - 1];
      from.push_back(
          patch_.copied_from(patch_.chunks()[k], scratch.moves, first, scratch.ends[i] - first, planes));
      if (from.back() < 0) return false;
    }
    for (size_t i = 0; i < panels; ++i) {
      const int64_t point = static_cast<int64_t>(i) * panel_;
      for (size_t j = 0; j < packing_.pieces(k).size(); ++j) {
        const T* b = planes.data + packing_.pieces(k)[j].first * planes.column + from[i];
        multiply_piece(j, vectors_of(points - point), k, b, planes.column, sums + point, sums_row, nullptr,
                       scratch);
      }
    }
    return true;
  }

  // Where the kernels can, they fold the next piece while they multiply one.
  void fold_and_multiply(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                         ThreadScratch& scratch) const {
    const std::vector<Piece>& pieces = packing_.pieces(k);
    const int64_t panel = panel_, panels = ceil_div(points, panel);
    const size_t count = pieces.size();
    const int64_t size = patch_.coefficients() * pieces[0].columns * panel;
    const size_t buffers = kernels_.folds_aside ? 2 : 1;
    T* folded = scratch.folded.get<T>(static_cast<int64_t>(buffers) * size);
    FoldArguments<T> folds[2];  // of this step and the next
    const auto plan = [&](size_t step) {
      const size_t i = step / count;
      const Piece& piece = pieces[step % count];
      const int first = i == 0 ? 0 : scratch.ends[i - 1];
      patch_.fold(patch_.chunks()[k], piece.first, piece.columns, scratch.moves, first,
                  scratch.ends[i] - first, scratch.masks, planes,
                  folded + static_cast<int64_t>(step % buffers) * size, panel, folds[step % 2]);
    };
    const size_t steps = static_cast<size_t>(panels) * count;
    plan(0);
    for (size_t step = 0; step < steps; ++step) {
      kernels_.fold(folds[step % 2]);
      FoldArguments<T>* next_fold = nullptr;
      if (step + 1 < steps) {
        plan(step + 1);
        if (kernels_.folds_aside) next_fold = &folds[(step + 1) % 2];
      }
      const int64_t point = static_cast<int64_t>(step / count) * panel;
      multiply_piece(step % count, vectors_of(points - point), k, folds[step % 2].folded, panel, sums + point,
                     sums_row, next_fold, scratch);
    }
  }

  // One folded piece of a panel, whose rows lie `row` elements apart, with all rows of the weight. Out of
  // line, as it is measured to be faster.
  [[gnu::noinline]] void multiply_piece(size_t j, int vectors, size_t k, const T* folded, int64_t row,
                                        T* sums, int64_t sums_row, FoldArguments<T>* next_fold,
                                        ThreadScratch& scratch) const {
    const void* lines[LookAhead::kMostLines];
    Aside<T> aside{next_fold, lines, 0};
    const int64_t columns = packing_.pieces(k)[j].columns, n = columns * row;
    const Sum* sum = nullptr;
    Segment<T>* segments = nullptr;
    int count = 0;
    const Call* const calls = scratch.calls.data();
    const Call* const end = calls + scratch.call_ends[j];
    for (const Call* call = calls + (j == 0 ? 0 : scratch.call_ends[j - 1]); call != end; ++call) {
      if (call->sum != sum) {
        sum = call->sum;
        count = 0;
        segments = scratch.segments.get<Segment<T>>(static_cast<int64_t>(sum->runs.size()));
        for (const Sum::Run& run : sum->runs)
          segments[count++] = {folded + run.first * n, run.count * columns};
      }
      aside.line_count = scratch.ahead.take(lines);
      kernels_.gemm(call->m, vectors, static_cast<const T*>(call->packed), 1, call->m, segments, count, row,
                    sums + call->target * sums_row, sums_row, k > 0 || j > 0, aside);
    }
  }

  // The slots of a finished tile, to the output: along the rows of one channel after the other, or, where
  // channels lie next to each other, along the points.
  void write(int64_t group, const T* sums, int64_t sums_row, const T* bias, const Tensor& output,
             const ThreadScratch& scratch) const {
    const bool planar = output.strides[4] * c_.output_step[2] == 1;
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      const RowRange range = scratch.rows[b];
      const int64_t orbits = range.last - range.first, together = planar ? 1 : orbits;
      for (int64_t orbit = 0; orbit < orbits; orbit += together) {
        write_orbits(group, b, range.first + orbit, together, sums + orbit * sums_row, sums_row,
                     orbits * sums_row, 0, std::numeric_limits<int64_t>::max(), bias, output, scratch);
      }
      sums += orbits * c_.rows[b].size() * sums_row;
    }
  }

  // The butterfly of some orbits of a row block, to the output, for points [first, last) of its runs; `slots`
  // are those of the first of these points.
  void write_orbits(int64_t group, size_t b, int64_t first_orbit, int64_t orbits, const T* slots,
                    int64_t slots_row, int64_t slot, int64_t first, int64_t last, const T* bias,
                    const Tensor& output, const ThreadScratch& scratch) const {
    const Block& block = c_.rows[b];
    const int64_t element = element_size(output.dtype);
    EpilogueArguments<T> a{};
    a.slots = block.size();
    a.orbits = orbits;
    a.row = slots_row;
    a.slot = slot;
    a.orbit_stride = output.strides[1];
    a.point_stride = output.strides[4] * c_.output_step[2];
    char* outputs[kMaxTerms];
    for (int copy = 0; copy < block.size(); ++copy) {
      const int e = subset_index(block.mask, reflection(block.mask, copy));
      const int64_t channel = group * c_.row_channels + block.channel(first_orbit, copy);
      outputs[e] = static_cast<char*>(output.data) + channel * output.strides[1] * element;
      a.bias[e] = bias ? bias + channel : nullptr;
    }
    for (const OutputRun& run : scratch.runs) {
      const int64_t begin = std::max(first, run.point), end = std::min(last, run.point + run.count);
      if (begin >= end) continue;
      a.accumulators = slots + begin - first;
      a.points = end - begin;
      for (int e = 0; e < block.size(); ++e) {
        a.output[e] = outputs[e] + (run.offset + (begin - run.point) * a.point_stride) * element;
      }
      kernels_.epilogue(output.dtype, a);
    }
  }

  const Convolution c_;
  const Kernels<T>& kernels_;
  const MatrixKernels<T>* matrix_;  // null: not used
  int panel_rows_;                  // of packed weights
  Schedule schedule_;
  Patch patch_;
  Packing packing_;
  int64_t panel_;  // points that are multiplied at once
  bool prepacked_;
};

}  // namespace

std::unique_ptr<const ConvolutionPlan> plan_convolution(const Convolution& convolution, DType dtype,
                                                        int threads, bool packed) {
  if (dtype == DType::kFloat64) return std::make_unique<Convolve<double>>(convolution, threads, packed);
  return std::make_unique<Convolve<float>>(convolution, threads, packed);
}

}  // namespace symconv::cpu
