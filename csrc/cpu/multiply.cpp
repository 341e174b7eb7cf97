// The products of fprop and dgrad: see multiply.h.
#include "multiply.h"

#include <algorithm>

namespace symconv::cpu {

template <typename T>
void Multiply<T>::plan(int64_t group, size_t k, const std::vector<RowRange>& rows,
                       const ChunkWeights<T>& weights, MultiplyBuffers& buffers) const {
  buffers.calls.clear();
  buffers.call_ends.clear();
  buffers.all_k = 0;
  for (const Piece& piece : packing_.pieces(k)) {
    int64_t target = 0;
    for (size_t b = 0; b < c_.rows.size(); ++b) {
      const RowRange& range = rows[b];
      for (const Sum& sum : packing_.sums(b)) {
        for (int64_t r = range.first; r < range.last; r += panel_rows_) {
          Call& call = buffers.calls.emplace_back();  // in place: a copy would wait for the stores
          call.m = static_cast<int>(std::min<int64_t>(panel_rows_, range.last - r));
          call.packed = weights.packed + (packing_.offset(group, k, piece, b, r) - weights.first) +
                        sum.first * packing_.coefficient_elements(piece, call.m);
          call.sum = &sum;
          call.k = sum.count * piece.columns;
          call.target = target + r - range.first;
          buffers.all_k += call.k;
        }
        target += range.count();
      }
    }
    buffers.call_ends.push_back(buffers.calls.size());
  }
}

template <typename T>
void Multiply<T>::run(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                      MultiplyBuffers& buffers) const {
  if (matrix_) return multiply_tiles(points, k, planes, sums, sums_row, buffers);
  if (multiply_planes(points, k, planes, sums, sums_row, buffers)) return;
  fold_and_multiply(points, k, planes, sums, sums_row, buffers);
}

template <typename T>
void Multiply<T>::multiply_tiles(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums,
                                 int64_t sums_row, MultiplyBuffers& buffers) const {
  const std::vector<Piece>& pieces = packing_.pieces(k);
  const int64_t coefficients = patch_.coefficients();
  const int64_t size =
      coefficients * ceil_div(pieces[0].columns, kTileDepth) * matrix_->vectors * kTileElements<T>;
  T* folded = buffers.folded.get<T>(coefficients * kTileDepth * panel_);
  T* const both = buffers.tiles.get<T>(2 * size);  // of this step and the next
  int64_t next = 0;
  MatrixWork<T> work{};
  for (int64_t i = 0; i < ceil_div(points, panel_); ++i) {
    const int first = i == 0 ? 0 : buffers.ends[i - 1], moves = buffers.ends[i] - first;
    const int64_t point = i * panel_;
    const int vectors = static_cast<int>(ceil_div(std::min(panel_, points - point), kTileRows));
    const int64_t step = vectors * kTileElements<T>;  // from depth to depth
    const int64_t copied = patch_.copied_from(patch_.chunks()[k], buffers.moves, first, moves, planes);
    for (size_t j = 0; j < pieces.size(); ++j) {
      T* tiles = both + next++ % 2 * size;
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
        patch_.fold(patch_.chunks()[k], column, columns, buffers.moves, first, moves, buffers.masks, planes,
                    folded, panel_, fold);
        matrix_->fold(fold, work);
        for (int64_t q = 0; q < coefficients; ++q) {
          matrix_->split_points(columns, vectors, folded + q * columns * panel_, panel_,
                                tiles + (q * depth + d) * step, work);
        }
      }
      matrix_->finish(work);
      work = plan_work(j, vectors, k, tiles, depth, step, sums + point, sums_row, buffers);
    }
  }
  matrix_->finish(work);
}

template <typename T>
MatrixWork<T> Multiply<T>::plan_work(size_t j, int vectors, size_t k, const T* tiles, int64_t depth,
                                     int64_t step, T* sums, int64_t sums_row,
                                     MultiplyBuffers& buffers) const {
  const bool accumulate = k > 0 || j > 0;
  const size_t first = j == 0 ? 0 : buffers.call_ends[j - 1], count = buffers.call_ends[j] - first;
  int64_t runs = 0;
  for (size_t b = 0; b < c_.rows.size(); ++b) {
    for (const Sum& sum : packing_.sums(b)) runs += static_cast<int64_t>(sum.runs.size());
  }
  Segment<T>* segment = buffers.segments.get<Segment<T>>(runs + 1);
  MatrixCall<T>* const calls = buffers.matrix_calls.get<MatrixCall<T>>(static_cast<int64_t>(count));
  MatrixCall<T>* end = calls;
  MatrixWork<T> work{};
  int64_t products = 0;
  const Sum* sum = nullptr;
  for (size_t i = first; i < first + count; ++i) {
    const Call& call = buffers.calls[i];
    T* const target = sums + call.target * sums_row;
    work.line_count += buffers.ahead.take(call.k);
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
  work.lines = buffers.ahead.lines();
  // Vectors that are folded and split while this is done: three for each that is folded, about.
  const int64_t others = patch_.coefficients() * depth * kTileDepth * vectors * 3;
  work.interval = std::max<int64_t>(1, others / std::max<int64_t>(1, products));
  return work;
}

template <typename T>
int Multiply<T>::vectors_of(int64_t points) const {
  return static_cast<int>(ceil_div(std::min(panel_, points), kernels_.lanes));
}

template <typename T>
bool Multiply<T>::multiply_planes(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums,
                                  int64_t sums_row, MultiplyBuffers& buffers) const {
  const size_t panels = buffers.ends.size();
  std::vector<int64_t>& from = buffers.copied_from;
  from.clear();
  for (size_t i = 0; i < panels; ++i) {
    const int first = i == 0 ? 0 : buffers.ends[i - 1];
    from.push_back(
        patch_.copied_from(patch_.chunks()[k], buffers.moves, first, buffers.ends[i] - first, planes));
    if (from.back() < 0) return false;
  }
  for (size_t i = 0; i < panels; ++i) {
    const int64_t point = static_cast<int64_t>(i) * panel_;
    for (size_t j = 0; j < packing_.pieces(k).size(); ++j) {
      const T* b = planes.data + packing_.pieces(k)[j].first * planes.column + from[i];
      multiply_piece(j, vectors_of(points - point), k, b, planes.column, sums + point, sums_row, nullptr,
                     buffers);
    }
  }
  return true;
}

template <typename T>
void Multiply<T>::fold_and_multiply(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums,
                                    int64_t sums_row, MultiplyBuffers& buffers) const {
  const std::vector<Piece>& pieces = packing_.pieces(k);
  const int64_t panel = panel_, panels = ceil_div(points, panel);
  const size_t count = pieces.size();
  const int64_t size = patch_.coefficients() * pieces[0].columns * panel;
  const size_t in_use = kernels_.folds_aside ? 2 : 1;
  T* folded = buffers.folded.get<T>(static_cast<int64_t>(in_use) * size);
  FoldArguments<T> folds[2];  // of this step and the next
  const auto plan = [&](size_t step) {
    const size_t i = step / count;
    const Piece& piece = pieces[step % count];
    const int first = i == 0 ? 0 : buffers.ends[i - 1];
    patch_.fold(patch_.chunks()[k], piece.first, piece.columns, buffers.moves, first, buffers.ends[i] - first,
                buffers.masks, planes, folded + static_cast<int64_t>(step % in_use) * size, panel,
                folds[step % 2]);
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
                   sums_row, next_fold, buffers);
  }
}

template <typename T>
void Multiply<T>::multiply_piece(size_t j, int vectors, size_t k, const T* folded, int64_t row, T* sums,
                                 int64_t sums_row, FoldArguments<T>* next_fold,
                                 MultiplyBuffers& buffers) const {
  Aside<T> aside{next_fold, buffers.ahead.lines(), 0};
  const int64_t columns = packing_.pieces(k)[j].columns, n = columns * row;
  const Sum* sum = nullptr;
  Segment<T>* segments = nullptr;
  int count = 0;
  const Call* const calls = buffers.calls.data();
  const Call* const end = calls + buffers.call_ends[j];
  for (const Call* call = calls + (j == 0 ? 0 : buffers.call_ends[j - 1]); call != end; ++call) {
    if (call->sum != sum) {
      sum = call->sum;
      count = 0;
      segments = buffers.segments.get<Segment<T>>(static_cast<int64_t>(sum->runs.size()));
      for (const Sum::Run& run : sum->runs) segments[count++] = {folded + run.first * n, run.count * columns};
    }
    aside.line_count = buffers.ahead.take(call->k);
    kernels_.gemm(call->m, vectors, static_cast<const T*>(call->packed), 1, call->m, segments, count, row,
                  sums + call->target * sums_row, sums_row, k > 0 || j > 0, aside);
  }
}

template class Multiply<float>;
template class Multiply<double>;

}  // namespace symconv::cpu
