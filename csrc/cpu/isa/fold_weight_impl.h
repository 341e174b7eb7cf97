// The weight fold of kernels.h, in two steps: the taps of a few columns are brought into the order
// [tap][column][row], and then whole vectors of them are folded.
#pragma once

#include "../../common/fold.h"
#include "../kernels.h"
#include "dispatch.h"
#include "elements.h"

namespace symconv::cpu {
namespace {

// Reduced weights on their way: tap k (counting through all sets) of column j and row r of the block is
// source[offset[k] + j * column_stride + r * row_stride], and goes to taps[k * pitch + j * rows + r].
template <typename T, typename Stored>
struct WeightBlock {
  static constexpr int kTaps = 512;       // of all sets, at most
  static constexpr int kElements = 8192;  // of taps[]
  static constexpr int kMostColumns = 2 * kLanes<T>;

  const Stored* source;
  int64_t row_stride, column_stride;
  int rows, columns, count;  // count: of taps
  int pitch;
  int64_t offset[kTaps];
  // Where the rows of a source element belong in taps[], or -1: of a run of taps or, where rows are not half
  // a vector, of taps of several columns.
  int32_t place[kElements];
  // Read, but not used, for a vector past the end. What is not a tap of any set goes there.
  alignas(64) T taps[kElements + kLanes<T> * kLanes<T>];

  T* at(int k, int j) { return taps + k * pitch + j * rows; }

  // Reads `run` elements next to each other, from `from` on, in every row, and stores the rows of element i
  // at where(i), which may be null.
  template <typename Where>
  SYMCONV_INLINE void transposed(const Stored* from, int64_t run, Where&& where) {
    constexpr int L = kLanes<T>;
    Vector<T> block[L];
    for (int64_t i = 0; i < run; i += L) {
      const int length = elements_at<T>(i, run);
      for (int first = 0; first < rows; first += L) {
        const int some = elements_at<T>(first, rows);
        for (int r = 0; r < some; ++r) block[r] = load_as<T>(from + i + (first + r) * row_stride, length);
        for (int r = some; r < L; ++r) block[r] = Vector<T>{};
        transpose<T>(block);
        for (int l = 0; l < length; ++l) {
          if (T* to = where(i + l)) store_as<T>(to + first, block[l], some);
        }
      }
    }
  }

  // The same for half a vector of rows and `run` <= Most elements; where(i) is not null.
  template <int Most, typename Where>
  SYMCONV_INLINE void transposed_halves(const Stored* from, int run, Where&& where) {
    constexpr int Half = kLanes<T> / 2;
    Vector<T> block[Half];
#pragma GCC unroll 16
    for (int r = 0; r < Half; ++r) block[r] = load_as<T>(from + r * row_stride, run);
    transpose_halves<T>(block);
#pragma GCC unroll 16
    for (int l = 0; l < Half; ++l) {
      store_low<T>(where(l), block[l]);
      if constexpr (Most > Half) {
        if (Half + l < Most) store_high<T>(where(Half + l), block[l]);
      }
    }
  }

  void collect_rows() {  // rows next to each other
    for (int k = 0; k < count; ++k) {
      for (int j = 0; j < columns; ++j) {
        const Stored* from = source + offset[k] + j * column_stride;
        for (int r = 0; r < rows; r += kLanes<T>) {
          const int some = elements_at<T>(r, rows);
          store_as<T>(at(k, j) + r, load_as<T>(from + r, some), some);
        }
      }
    }
  }

  void collect_columns() {  // columns next to each other
    constexpr int L = kLanes<T>, Half = L / 2;
    for (int k = 0; k < count; ++k) {
      const Stored* const from = source + offset[k];
      int done = 0;
      for (; rows == Half && done + L <= columns; done += L) {
        T* const target = at(k, done);
        transposed_halves<L>(from + done, L, [&](int i) { return target + i * Half; });
      }
      transposed(from + done, columns - done, [&](int64_t i) { return at(k, done + static_cast<int>(i)); });
    }
  }

  // Taps next to each other: offsets first + 0..span-1, which place[] sorts out.
  void collect_taps(int64_t first, int64_t span) {
    constexpr int L = kLanes<T>, Half = L / 2;
    if (rows == Half) {
      for (int64_t tap = 0; tap < span; tap += L) {
        const int some = elements_at<T>(tap, span);
        if (some <= Half) {
          collect_some_taps<Half>(first, tap, some);
        } else if (some == Half + 1) {  // 3 x 3 and 5 x 5 of 16 lanes
          collect_some_taps<Half + 1>(first, tap, some);
        } else {
          collect_some_taps<L>(first, tap, some);
        }
      }
    } else if (column_stride == span) {  // and the next column's after them
      transposed(source + first, columns * span,
                 [&](int64_t i) { return place[i] < 0 ? nullptr : taps + place[i]; });
    } else {
      for (int j = 0; j < columns; ++j) {
        transposed(source + first + j * column_stride, span,
                   [&](int64_t i) { return place[i] < 0 ? nullptr : taps + place[i] + j * rows; });
      }
    }
  }

  // Of half a vector of rows the `some` taps from `tap` on; some <= Most.
  template <int Most>
  void collect_some_taps(int64_t first, int64_t tap, int some) {
    constexpr int Half = kLanes<T> / 2;
    int32_t to[Most];
    for (int i = 0; i < Most; ++i) to[i] = i < some && place[tap + i] >= 0 ? place[tap + i] : kElements;
    const Stored* from = source + first + tap;
    T* target = taps;
    for (int j = 0; j < columns; ++j) {
      transposed_halves<Most>(from, some, [&](int i) { return target + to[i]; });
      from += column_stride;
      target += Half;
    }
  }

  void collect_any() {
    for (int k = 0; k < count; ++k) {
      for (int j = 0; j < columns; ++j) {
        const Stored* from = source + offset[k] + j * column_stride;
        for (int r = 0; r < rows; ++r) at(k, j)[r] = widen<T>(from[r * row_stride]);
      }
    }
  }
};

// Taps k, k + 1, ... of the block, which are those of `set`, to target[coefficient * coefficient_stride].
template <typename T, typename Stored, int Terms>
void fold_block(WeightBlock<T, Stored>& block, const TapSet& set, int k, T* target,
                int64_t coefficient_stride) {
  constexpr int L = kLanes<T>;
  const int n = block.columns * block.rows;
  const T* taps = block.at(k, 0);
  const int pitch = block.pitch;
  T* to[Terms];
  for (int q = 0; q < Terms; ++q) to[q] = target + set.coefficient[q] * coefficient_stride;
  const auto fold_vector = [&](int i, auto&& put) __attribute__((always_inline)) {
    Vector<T> w[Terms];
#pragma GCC unroll 8
    for (int e = 0; e < Terms; ++e) w[e] = load<T>(taps + e * pitch + i);
    hadamard<Terms>(w);
#pragma GCC unroll 8
    for (int q = 0; q < Terms; ++q) put(to[q] + i, w[q] * (T(1) / Terms));
  };
  int i = 0;
  for (; i + L <= n; i += L) fold_vector(i, [](T* p, Vector<T> v) { store<T>(p, v); });
  if (i < n) fold_vector(i, [&](T* p, Vector<T> v) { store_partial<T>(p, v, n - i); });
}

template <typename T, typename Stored>
void fold_weight_typed(const TapSet* sets, int set_count, const Stored* source, int64_t row_stride, int rows,
                       int64_t column_stride, int64_t columns, T* target, int64_t coefficient_stride) {
  using Block = WeightBlock<T, Stored>;
  Block block;
  block.row_stride = row_stride;
  block.column_stride = column_stride;
  block.rows = rows;
  // As many sets as fit; more than one turn only for kernels of hundreds of taps.
  for (int s = 0; s < set_count;) {
    int end = s;
    block.count = 0;
    while (end < set_count && block.count + sets[end].terms <= Block::kTaps &&
           (block.count + sets[end].terms) * rows <= Block::kElements) {
      for (int e = 0; e < sets[end].terms; ++e) block.offset[block.count++] = sets[end].tap[0][e];
      ++end;
    }
    // Columns at once: whole vectors of them, but no more than stay in L1.
    int64_t step = Block::kElements / (block.count * rows);
    if (step > Block::kMostColumns) step = Block::kMostColumns;
    block.pitch = static_cast<int>(step) * rows;

    int64_t first = block.offset[0], last = first;
    for (int k = 1; k < block.count; ++k) {
      first = block.offset[k] < first ? block.offset[k] : first;
      last = block.offset[k] > last ? block.offset[k] : last;
    }
    const int64_t span = last - first + 1;
    const bool merged = column_stride == span && rows != kLanes<T> / 2;
    const int64_t places = merged ? step * span : span;
    bool dense =
        row_stride != 1 && column_stride != 1 && span <= 2 * block.count && places <= Block::kElements;
    if (dense) {
      // Where each tap of the first column belongs; then those of the columns after it.
      for (int64_t i = 0; i < span; ++i) block.place[i] = -1;
      for (int k = 0; k < block.count; ++k) {
        int32_t* place = block.place + (block.offset[k] - first);
        dense = dense && *place < 0;  // no tap twice
        *place = k * block.pitch;
      }
      const int64_t used = merged ? (columns < step ? columns : step) * span : span;
      for (int64_t i = span; i < used; ++i) {
        const int32_t before = block.place[i - span];
        block.place[i] = before < 0 ? -1 : before + rows;
      }
    }
    for (int64_t column = 0; column < columns; column += step) {
      block.source = source + column * column_stride;
      block.columns = static_cast<int>(columns - column < step ? columns - column : step);
      if (row_stride == 1) {
        block.collect_rows();
      } else if (column_stride == 1) {
        block.collect_columns();
      } else if (dense) {
        block.collect_taps(first, span);
      } else {
        block.collect_any();
      }
      int k = 0;
      for (int i = s; i < end; ++i) {
        with_power(sets[i].terms, [&](auto terms) {
          fold_block<T, Stored, terms()>(block, sets[i], k, target + column * rows, coefficient_stride);
        });
        k += sets[i].terms;
      }
    }
    s = end;
  }
}

template <typename T>
void fold_weight(DType dtype, const TapSet* sets, int set_count, const void* source, int64_t row_stride,
                 int rows, int64_t column_stride, int64_t columns, T* target, int64_t coefficient_stride) {
  with_storage<T>(dtype, [&](auto s) {
    using Stored = decltype(s);
    fold_weight_typed<T, Stored>(sets, set_count, static_cast<const Stored*>(source), row_stride, rows,
                                 column_stride, columns, target, coefficient_stride);
  });
}

}  // namespace
}  // namespace symconv::cpu
