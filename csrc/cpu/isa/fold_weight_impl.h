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

  const Stored* source;
  int64_t row_stride, column_stride;
  int rows, columns, count;  // count: of taps
  int pitch;                 // columns * rows, and a vector that stores may spoil
  int64_t offset[kTaps];
  alignas(64) T taps[kElements];

  T* at(int k, int j) { return taps + k * pitch + j * rows; }

  // `run` elements next to each other, from `from` on, of all rows; the transposed vectors, one per element
  // with the rows as its lanes, go to `put`, in order.
  template <typename Put>
  SYMCONV_INLINE void transposed(const Stored* from, int64_t run, Put&& put) {
    constexpr int L = kLanes<T>;
    for (int64_t i = 0; i < run; i += L) {
      const int length = static_cast<int>(run - i < L ? run - i : L);
      Vector<T> block[L];
      for (int r = 0; r < rows; ++r) block[r] = load_as<T>(from + i + r * row_stride, length);
      for (int r = rows; r < L; ++r) block[r] = Vector<T>{};
      transpose<T>(block);
      for (int l = 0; l < length; ++l) put(i + l, block[l]);
    }
  }

  void collect_rows() {  // rows next to each other
    for (int k = 0; k < count; ++k) {
      for (int j = 0; j < columns; ++j) {
        store<T>(at(k, j), load_as<T>(source + offset[k] + j * column_stride, rows));
      }
    }
  }

  void collect_columns() {  // columns next to each other
    for (int k = 0; k < count; ++k) {
      transposed(source + offset[k], columns,
                 [&](int64_t j, Vector<T> v) { store<T>(at(k, static_cast<int>(j)), v); });
    }
  }

  // Taps next to each other, if no two are the same: offsets first + 0..span-1; tap_at[] says which, or -1.
  void collect_taps(int64_t first, int64_t span, const int16_t* tap_at) {
    for (int j = 0; j < columns; ++j) {
      transposed(source + first + j * column_stride, span, [&](int64_t i, Vector<T> v) {
        if (tap_at[i] >= 0) store<T>(at(tap_at[i], j), v);
      });
    }
  }

  // The same where the columns follow one another without a gap.
  void collect_taps_and_columns(int64_t first, int64_t span, const int16_t* tap_at) {
    int64_t i = 0;
    int j = 0;
    transposed(source + first, columns * span, [&](int64_t, Vector<T> v) {
      if (tap_at[i] >= 0) store<T>(at(tap_at[i], j), v);
      if (++i == span) i = 0, ++j;
    });
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
  for (int i = 0; i < n; i += L) {
    Vector<T> w[Terms];
#pragma GCC unroll 8
    for (int e = 0; e < Terms; ++e) w[e] = load<T>(taps + e * pitch + i);
    hadamard<Terms>(w);
#pragma GCC unroll 8
    for (int q = 0; q < Terms; ++q) {
      store_as<T>(to[q] + i, w[q] * (T(1) / Terms), n - i < L ? n - i : L);
    }
  }
}

template <typename T, typename Stored>
void fold_weight_typed(const TapSet* sets, int set_count, const Stored* source, int64_t row_stride, int rows,
                       int64_t column_stride, int64_t columns, T* target, int64_t coefficient_stride) {
  using Block = WeightBlock<T, Stored>;
  constexpr int L = kLanes<T>;
  Block block;
  block.row_stride = row_stride;
  block.column_stride = column_stride;
  block.rows = rows;
  // As many sets as fit; more than one turn only for kernels of hundreds of taps.
  for (int s = 0; s < set_count;) {
    int end = s;
    block.count = 0;
    for (; end < set_count && block.count + sets[end].terms <= Block::kTaps &&
           (block.count + sets[end].terms) * (rows + L) <= Block::kElements;
         ++end) {
      for (int e = 0; e < sets[end].terms; ++e) block.offset[block.count++] = sets[end].tap[0][e];
    }
    int64_t first = block.offset[0], last = first;
    for (int k = 1; k < block.count; ++k) {
      first = block.offset[k] < first ? block.offset[k] : first;
      last = block.offset[k] > last ? block.offset[k] : last;
    }
    const int64_t span = last - first + 1;
    int16_t tap_at[Block::kTaps];
    bool dense = span <= 2 * block.count && span <= Block::kTaps;
    if (dense) {
      for (int64_t i = 0; i < span; ++i) tap_at[i] = -1;
      for (int k = 0; k < block.count; ++k) {
        int16_t& tap = tap_at[block.offset[k] - first];
        dense = dense && tap < 0;
        tap = static_cast<int16_t>(k);
      }
    }
    int64_t step = (Block::kElements / block.count - L) / rows;
    if (step > 2 * L) step = 2 * L;
    for (int64_t column = 0; column < columns; column += step) {
      block.source = source + column * column_stride;
      block.columns = static_cast<int>(columns - column < step ? columns - column : step);
      block.pitch = block.columns * rows + L;
      if (row_stride == 1) {
        block.collect_rows();
      } else if (column_stride == 1) {
        block.collect_columns();
      } else if (dense && column_stride == span) {
        block.collect_taps_and_columns(first, span, tap_at);
      } else if (dense) {
        block.collect_taps(first, span, tap_at);
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
