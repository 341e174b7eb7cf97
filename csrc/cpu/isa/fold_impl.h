// The folds of kernels.h: of patches, and of weights.
#pragma once

#include "../../common/fold.h"
#include "../kernels.h"
#include "dispatch.h"
#include "elements.h"

namespace symconv::cpu {
namespace {

template <typename T, int Terms, int Copies>
void fold_set(const FoldArguments<T>& f, const TapSet& set, int64_t column) {
  const T* planes[Copies];
  for (int c = 0; c < Copies; ++c) planes[c] = f.staged + (c * f.columns + column) * f.plane;
  T* rows[Terms];
  for (int q = 0; q < Terms; ++q)
    rows[q] = f.folded + (set.coefficient[q] * f.columns + column) * f.folded_row;
  const T* taps[Copies][Terms];
  for (int c = 0; c < Copies; ++c) {
    for (int e = 0; e < Terms; ++e) taps[c][e] = planes[c] + set.tap[c][e];
  }
  for (int m = 0; m < f.move_count; ++m) {
    const Move move = f.moves[m];
    Vector<T> x[Terms];
#pragma GCC unroll 8
    for (int e = 0; e < Terms; ++e) {
      x[e] = load<T>(taps[0][e] + move.source);
#pragma GCC unroll 8
      for (int c = 1; c < Copies; ++c) x[e] += load<T>(taps[c][e] + move.source);
    }
    hadamard<Terms>(x);
    if (move.count == kLanes<T>) {
#pragma GCC unroll 8
      for (int q = 0; q < Terms; ++q) store<T>(rows[q] + move.target, x[q]);
    } else {
#pragma GCC unroll 8
      for (int q = 0; q < Terms; ++q) store_partial<T>(rows[q] + move.target, x[q], move.count);
    }
  }
}

template <typename T>
void fold(const FoldArguments<T>& f) {
  for (int64_t column = 0; column < f.columns; ++column) {
    for (int s = 0; s < f.set_count; ++s) {
      const TapSet& set = f.sets[s];
      with_power(set.terms, [&](auto terms) {
        with_power(f.copies, [&](auto copies) { fold_set<T, terms(), copies()>(f, set, column); });
      });
    }
  }
}

template <typename T, typename Stored, int Terms, int Rows>
void fold_weight_set(const TapSet& set, const Stored* source, int64_t row_stride, int rows, T* target,
                     int64_t coefficient_stride) {
  T w[Terms][Rows];
  for (int e = 0; e < Terms; ++e) {
    const Stored* from = source + set.tap[0][e];
    for (int r = 0; r < Rows; ++r) w[e][r] = r < rows ? widen<T>(from[r * row_stride]) : T(0);
  }
  for (int half = 1; half < Terms; half *= 2) {  // hadamard, row by row
    for (int i = 0; i < Terms; ++i) {
      if (i & half) continue;
      for (int r = 0; r < Rows; ++r) {
        T pair[2] = {w[i][r], w[i + half][r]};
        hadamard<2>(pair);
        w[i][r] = pair[0];
        w[i + half][r] = pair[1];
      }
    }
  }
  for (int q = 0; q < Terms; ++q) {
    T* to = target + set.coefficient[q] * coefficient_stride;
    if (rows == Rows) {
      for (int r = 0; r < Rows; ++r) to[r] = w[q][r] * (T(1) / Terms);
    } else {
      for (int r = 0; r < rows; ++r) to[r] = w[q][r] * (T(1) / Terms);
    }
  }
}

template <typename T, int Rows>
void fold_weight(DType dtype, const TapSet* sets, int set_count, const void* source, int64_t row_stride,
                 int rows, int64_t column_stride, int64_t columns, T* target, int64_t coefficient_stride) {
  with_storage<T>(dtype, [&](auto s) {
    using Stored = decltype(s);
    const Stored* from = static_cast<const Stored*>(source);
    for (int64_t j = 0; j < columns; ++j) {
      for (int i = 0; i < set_count; ++i) {
        with_power(sets[i].terms, [&](auto terms) {
          fold_weight_set<T, Stored, terms(), Rows>(sets[i], from + j * column_stride, row_stride, rows,
                                                    target + j * rows, coefficient_stride);
        });
      }
    }
  });
}

}  // namespace
}  // namespace symconv::cpu
