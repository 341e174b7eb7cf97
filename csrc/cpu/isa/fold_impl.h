// The fold of kernels.h.
#pragma once

#include "../../common/fold.h"
#include "../kernels.h"
#include "dispatch.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

// Where a set's taps are read and its coefficients written, relative to the first staged and folded element
// of a column. In local variables throughout: a store may alias what is behind a pointer.
template <int Terms, int Copies>
struct Offsets {
  int64_t tap[Copies][Terms], row[Terms];

  template <typename T>
  SYMCONV_INLINE Offsets(const FoldArguments<T>& f, const TapSet& set) {
#pragma GCC unroll 8
    for (int e = 0; e < Terms; ++e) {
#pragma GCC unroll 8
      for (int c = 0; c < Copies; ++c) tap[c][e] = c * f.plane + set.tap[c][e];
      row[e] = set.coefficient[e] * f.columns * f.folded_row;
    }
  }
};

// `Vectors` moves to neighbouring vectors of a panel, for `columns` columns. One address register for each
// move, advanced from column to column, and one for each offset serve all loads and stores.
template <typename T, int Terms, int Copies, int Vectors, typename Put>
SYMCONV_INLINE void fold_moves(const Offsets<Terms, Copies>& at, const Move* moves, const T* staged,
                               int64_t column_step, T* folded, int64_t folded_row, int64_t columns,
                               Put&& put) {
  const T* from[Vectors];
  for (int v = 0; v < Vectors; ++v) from[v] = staged + moves[v].source;
  T* to = folded + moves[0].target;
  for (; columns > 0; --columns) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      Vector<T> x[Terms];
#pragma GCC unroll 8
      for (int e = 0; e < Terms; ++e) {
        x[e] = in_register<T>(load<T>(from[v] + at.tap[0][e]));
#pragma GCC unroll 8
        for (int c = 1; c < Copies; ++c) x[e] += load<T>(from[v] + at.tap[c][e]);
      }
      hadamard<Terms>(x);
#pragma GCC unroll 8
      for (int q = 0; q < Terms; ++q) put(to + v * kLanes<T> + at.row[q], x[q]);
      from[v] = opaque(from[v] + column_step);
    }
    to = opaque(to + folded_row);
  }
}

// Columns [first, last) of one tap set: moves three or two at a time where they fill neighbouring vectors,
// since the offsets cost as much to set up as some vectors cost to fold.
template <typename T, int Terms, int Copies>
__attribute__((noinline)) void fold_columns(const FoldArguments<T>& f, const TapSet& set, int64_t first,
                                            int64_t last) {
  constexpr int L = kLanes<T>;
  const Offsets<Terms, Copies> at(f, set);
  const int64_t column_step = Copies * f.plane, folded_row = f.folded_row, columns = last - first;
  const T* staged = f.staged + first * column_step;
  T* folded = f.folded + first * folded_row;
  const auto whole = [](T* p, Vector<T> v) { store<T>(p, v); };
  const auto neighbours = [](const Move* m) {
    return m[0].count == L && m[1].count == L && m[1].target == m[0].target + L;
  };
  const Move* const end = f.moves + f.move_count;
  for (const Move* m = f.moves; m != end;) {
    if (end - m >= 3 && neighbours(m) && neighbours(m + 1)) {
      fold_moves<T, Terms, Copies, 3>(at, m, staged, column_step, folded, folded_row, columns, whole);
      m += 3;
    } else if (end - m >= 2 && neighbours(m)) {
      fold_moves<T, Terms, Copies, 2>(at, m, staged, column_step, folded, folded_row, columns, whole);
      m += 2;
    } else if (m->count == L) {
      fold_moves<T, Terms, Copies, 1>(at, m++, staged, column_step, folded, folded_row, columns, whole);
    } else {
      const int count = m->count;
      fold_moves<T, Terms, Copies, 1>(at, m++, staged, column_step, folded, folded_row, columns,
                                      [=](T* p, Vector<T> v) { store_partial<T>(p, v, count); });
    }
  }
}

// A few columns at a time: their staged rows, which most sets read, stay in L1.
template <typename T>
void fold(const FoldArguments<T>& f) {
  constexpr int64_t kColumns = 16;
  const int64_t parts = (f.columns + kColumns - 1) / kColumns;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = f.columns * part / parts, last = f.columns * (part + 1) / parts;
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
