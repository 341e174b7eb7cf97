// The fold of kernels.h.
#pragma once

#include "../../common/fold.h"
#include "../kernels.h"
#include "dispatch.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

// Where a set's taps are read and its coefficients written, relative to the first plane and folded element of
// a column. In local variables throughout: a store may alias what is behind a pointer.
template <int Terms, bool Shared>
struct Offsets {
  static constexpr int kPlanes = Shared ? 1 : Terms;
  int64_t tap[kPlanes][Terms], row[Terms];

  template <typename T>
  SYMCONV_INLINE Offsets(const FoldArguments<T>& f, const PlaneSet& set) {
#pragma GCC unroll 8
    for (int e = 0; e < Terms; ++e) {
#pragma GCC unroll 8
      for (int q = 0; q < kPlanes; ++q) tap[q][e] = set.plane[q] + set.tap[e];
      row[e] = set.coefficient[e] * f.columns * f.folded_row;
    }
  }
};

// `Vectors` moves to neighbouring vectors of a panel, for `columns` columns. One address register for each
// move, advanced from column to column, and one for each offset serve all loads and stores. Get loads a tap's
// vector, put stores one.
template <typename T, int Terms, bool Shared, int Vectors, typename Get, typename Put>
SYMCONV_INLINE void fold_moves(const Offsets<Terms, Shared>& at, const Move* moves, const T* planes,
                               int64_t column_step, T* folded, int64_t folded_row, int64_t columns, Get&& get,
                               Put&& put) {
  const T* from[Vectors];
  for (int v = 0; v < Vectors; ++v) from[v] = planes + moves[v].source;
  T* to = folded + moves[0].target;
  for (; columns > 0; --columns) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      Vector<T> y[Terms];
      if constexpr (Shared) {
#pragma GCC unroll 8
        for (int e = 0; e < Terms; ++e) y[e] = in_register<T>(get(from[v] + at.tap[0][e], e));
        hadamard<Terms>(y);
      } else {
#pragma GCC unroll 8
        for (int q = 0; q < Terms; ++q) {
          Vector<T> x[Terms];
#pragma GCC unroll 8
          for (int e = 0; e < Terms; ++e) x[e] = get(from[v] + at.tap[q][e], e);
          hadamard<Terms>(x);  // one of them is used
          y[q] = x[q];
        }
      }
#pragma GCC unroll 8
      for (int q = 0; q < Terms; ++q) put(to + v * kLanes<T> + at.row[q], y[q]);
      from[v] += column_step;
    }
    to += folded_row;
  }
}

// One set, every tap of which exists: moves three or two at a time where they fill neighbouring vectors,
// since the offsets cost as much to set up as some vectors cost to fold.
template <typename T, int Terms, bool Shared>
__attribute__((noinline)) void fold_set(const FoldArguments<T>& f, const PlaneSet& set, int64_t first,
                                        int64_t columns) {
  constexpr int L = kLanes<T>;
  const Offsets<Terms, Shared> at(f, set);
  const int64_t column_step = f.column, folded_row = f.folded_row;
  const T* planes = f.planes + first * column_step;
  T* folded = f.folded + first * folded_row;
  const auto get = [](const T* p, int) { return load<T>(p); };
  const auto whole = [](T* p, Vector<T> v) { store<T>(p, v); };
  const auto neighbours = [](const Move* m) {
    return m[0].count == L && m[1].count == L && m[1].target == m[0].target + L;
  };
  const Move* const end = f.moves + f.move_count;
  for (const Move* m = f.moves; m != end;) {
    if (end - m >= 3 && neighbours(m) && neighbours(m + 1)) {
      fold_moves<T, Terms, Shared, 3>(at, m, planes, column_step, folded, folded_row, columns, get, whole);
      m += 3;
    } else if (end - m >= 2 && neighbours(m)) {
      fold_moves<T, Terms, Shared, 2>(at, m, planes, column_step, folded, folded_row, columns, get, whole);
      m += 2;
    } else if (m->count == L) {
      fold_moves<T, Terms, Shared, 1>(at, m++, planes, column_step, folded, folded_row, columns, get, whole);
    } else {
      const int count = m->count;
      fold_moves<T, Terms, Shared, 1>(at, m++, planes, column_step, folded, folded_row, columns, get,
                                      [=](T* p, Vector<T> v) { store_partial<T>(p, v, count); });
    }
  }
}

// One set with masks, which stay in registers for all columns of a move.
template <typename T, int Terms, bool Shared>
__attribute__((noinline)) void fold_masked_set(const FoldArguments<T>& f, const PlaneSet& set, int64_t first,
                                               int64_t columns) {
  constexpr int L = kLanes<T>;
  const Offsets<Terms, Shared> at(f, set);
  const int64_t column_step = f.column, folded_row = f.folded_row;
  const T* planes = f.planes + first * column_step;
  T* folded = f.folded + first * folded_row;
  for (int m = 0; m < f.move_count; ++m) {
    const uint32_t* bits = f.masks + m * f.mask_row;
    const auto fold = [&](const auto& masks) __attribute__((always_inline)) {
      const auto get = [&](const T* p, int e) __attribute__((always_inline)) { return masks[e].load(p); };
      if (f.moves[m].count == L) {
        fold_moves<T, Terms, Shared, 1>(at, f.moves + m, planes, column_step, folded, folded_row, columns,
                                        get, [](T* p, Vector<T> v) { store<T>(p, v); });
      } else {
        const int count = f.moves[m].count;
        fold_moves<T, Terms, Shared, 1>(at, f.moves + m, planes, column_step, folded, folded_row, columns,
                                        get, [=](T* p, Vector<T> v) { store_partial<T>(p, v, count); });
      }
    };
    const auto mask = [&](int e) __attribute__((always_inline)) { return LaneMask<T>(bits[set.mask[e]]); };
    if constexpr (Terms == 1) {
      const LaneMask<T> masks[] = {mask(0)};
      fold(masks);
    } else if constexpr (Terms == 2) {
      const LaneMask<T> masks[] = {mask(0), mask(1)};
      fold(masks);
    } else if constexpr (Terms == 4) {
      const LaneMask<T> masks[] = {mask(0), mask(1), mask(2), mask(3)};
      fold(masks);
    } else {
      const LaneMask<T> masks[] = {mask(0), mask(1), mask(2), mask(3), mask(4), mask(5), mask(6), mask(7)};
      fold(masks);
    }
  }
}

// A few columns at a time: their planes' lines, which most sets read, stay in L1.
template <typename T>
void fold(const FoldArguments<T>& f) {
  constexpr int64_t kColumns = 16;
  const int64_t parts = (f.columns + kColumns - 1) / kColumns;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t first = f.columns * part / parts, columns = f.columns * (part + 1) / parts - first;
    for (int s = 0; s < f.set_count; ++s) {
      const PlaneSet& set = f.sets[s];
      with_power(set.terms, [&](auto terms) {
        if (f.masks) {
          set.shared ? fold_masked_set<T, terms(), true>(f, set, first, columns)
                     : fold_masked_set<T, terms(), false>(f, set, first, columns);
        } else {
          set.shared ? fold_set<T, terms(), true>(f, set, first, columns)
                     : fold_set<T, terms(), false>(f, set, first, columns);
        }
      });
    }
  }
}

}  // namespace
}  // namespace symconv::cpu
