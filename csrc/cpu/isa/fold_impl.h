// The fold of kernels.h.
#pragma once

#include "../../common/fold.h"
#include "../kernels.h"
#include "dispatch.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

// One move of columns [first, last) of one tap set. `put` stores a vector of results.
template <typename T, int Terms, int Copies, typename Put>
SYMCONV_INLINE void fold_move(const FoldArguments<T>& f, const TapSet& set, const Move& move, int64_t first,
                              int64_t last, Put&& put) {
  // All that the loop needs is in local variables: a store may alias what is behind a pointer.
  int64_t tap[Copies][Terms], row[Terms];
  for (int e = 0; e < Terms; ++e) {
    for (int c = 0; c < Copies; ++c) tap[c][e] = c * f.plane + set.tap[c][e];
    row[e] = set.coefficient[e] * f.columns * f.folded_row;
  }
  const int64_t column_step = Copies * f.plane, folded_row = f.folded_row;
  const T* staged = f.staged + first * column_step + move.source;
  T* folded = f.folded + first * folded_row + move.target;
  for (int64_t column = first; column < last; ++column, staged += column_step, folded += folded_row) {
    Vector<T> x[Terms];
#pragma GCC unroll 8
    for (int e = 0; e < Terms; ++e) {
      x[e] = in_register<T>(load<T>(staged + tap[0][e]));
#pragma GCC unroll 8
      for (int c = 1; c < Copies; ++c) x[e] += load<T>(staged + tap[c][e]);
    }
    hadamard<Terms>(x);
#pragma GCC unroll 8
    for (int q = 0; q < Terms; ++q) put(folded + row[q], x[q]);
  }
}

template <typename T, int Terms, int Copies>
__attribute__((noinline)) void fold_columns(const FoldArguments<T>& f, const TapSet& set, int64_t first,
                                            int64_t last) {
  for (int m = 0; m < f.move_count; ++m) {
    const Move move = f.moves[m];
    if (move.count == kLanes<T>) {
      fold_move<T, Terms, Copies>(f, set, move, first, last, [](T* p, Vector<T> v) { store<T>(p, v); });
    } else {
      fold_move<T, Terms, Copies>(f, set, move, first, last,
                                  [=](T* p, Vector<T> v) { store_partial<T>(p, v, move.count); });
    }
  }
}

// A few columns at a time: their staged rows, which most sets read, stay in L1.
template <typename T>
void fold(const FoldArguments<T>& f) {
  constexpr int64_t kColumns = 16;
  for (int64_t first = 0; first < f.columns; first += kColumns) {
    const int64_t last = first + kColumns < f.columns ? first + kColumns : f.columns;
    for (int s = 0; s < f.set_count; ++s) {
      const TapSet& set = f.sets[s];
      with_power(set.terms, [&](auto terms) {
        with_power(f.copies, [&](auto copies) { fold_columns<T, terms(), copies()>(f, set, first, last); });
      });
    }
  }
}

}  // namespace
}  // namespace symconv::cpu
