// The fold of kernels.h.
#pragma once

#include <algorithm>

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
// move, advanced from column to column, and one for each offset serve all loads and stores. lanes(e) are
// those of tap e that exist, put stores a vector; between() is called after every column.
template <typename T, int Terms, bool Shared, int Vectors, typename Lanes, typename Put, typename Between>
SYMCONV_INLINE void fold_moves(const Offsets<Terms, Shared>& at, const Move* moves, const T* planes,
                               int64_t column_step, T* folded, int64_t folded_row, int64_t columns,
                               Lanes&& lanes, Put&& put, Between&& between) {
  const T* from[Vectors];
  for (int v = 0; v < Vectors; ++v) from[v] = planes + moves[v].source;
  T* to = folded + moves[0].target;
  for (; columns > 0; --columns) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      Vector<T> y[Terms];
      if constexpr (Terms == 1) {
        y[0] = lanes(0).load(from[v] + at.tap[0][0]);
      } else if constexpr (Shared) {
#pragma GCC unroll 8
        for (int e = 0; e < Terms; e += 2) {
          const Vector<T> x = lanes(e).load(from[v] + at.tap[0][e]);
          lanes(e + 1).add_and_subtract(x, from[v] + at.tap[0][e + 1], y[e], y[e + 1]);
        }
        hadamard<Terms, 2>(y);
      } else {
#pragma GCC unroll 8
        for (int q = 0; q < Terms; ++q) {
          y[q] = lanes(0).load(from[v] + at.tap[q][0]);
#pragma GCC unroll 8
          for (int e = 1; e < Terms; ++e) {
            const T* p = from[v] + at.tap[q][e];
            y[q] = sign(q, e) > 0 ? lanes(e).add(y[q], p) : lanes(e).subtract(y[q], p);
          }
        }
      }
#pragma GCC unroll 8
      for (int q = 0; q < Terms; ++q) put(to + v * kLanes<T> + at.row[q], y[q]);
      from[v] += column_step;
    }
    to += folded_row;
    between();
  }
}

constexpr auto kNothing = [] {};

// One set, every tap of which exists: moves three or two at a time where they fill neighbouring vectors,
// since the offsets cost as much to set up as some vectors cost to fold.
template <typename T, int Terms, bool Shared, typename Between>
__attribute__((noinline)) void fold_set(const FoldArguments<T>& f, const PlaneSet& set, int64_t first,
                                        int64_t columns, Between& between) {
  constexpr int L = kLanes<T>;
  const Offsets<Terms, Shared> at(f, set);
  const int64_t column_step = f.column, folded_row = f.folded_row;
  const T* planes = f.planes + first * column_step;
  T* folded = f.folded + first * folded_row;
  const auto every = [](int) { return EveryLane<T>{}; };
  const auto whole = [](T* p, Vector<T> v) { store<T>(p, v); };
  const auto neighbours = [](const Move* m) {
    return m[0].count == L && m[1].count == L && m[1].target == m[0].target + L;
  };
  const Move* const end = f.moves + f.move_count;
  for (const Move* m = f.moves; m != end;) {
    if (end - m >= 3 && neighbours(m) && neighbours(m + 1)) {
      fold_moves<T, Terms, Shared, 3>(at, m, planes, column_step, folded, folded_row, columns, every, whole,
                                      between);
      m += 3;
    } else if (end - m >= 2 && neighbours(m)) {
      fold_moves<T, Terms, Shared, 2>(at, m, planes, column_step, folded, folded_row, columns, every, whole,
                                      between);
      m += 2;
    } else if (m->count == L) {
      fold_moves<T, Terms, Shared, 1>(at, m++, planes, column_step, folded, folded_row, columns, every, whole,
                                      between);
    } else {
      const int count = m->count;
      fold_moves<T, Terms, Shared, 1>(
          at, m++, planes, column_step, folded, folded_row, columns, every,
          [=](T* p, Vector<T> v) { store_partial<T>(p, v, count); }, between);
    }
  }
}

// How many columns go through all sets together: not more than whose planes' lines, which most sets read,
// stay in the caches; not few, for what is set up for each set and move, and the branches that are
// mispredicted.
template <typename T>
SYMCONV_INLINE int64_t columns_together(const FoldArguments<T>& f) {
  constexpr int64_t kMost = 64;
  const int64_t left = f.columns - f.at.first;
  return left <= kMost ? left : left < 2 * kMost ? left / 2 : kMost;
}

// Those of them that are left of the move that comes next.
template <typename T>
SYMCONV_INLINE int64_t columns_left(const FoldArguments<T>& f) {
  return columns_together(f) - f.at.column;
}

// All moves of a set are done.
template <typename T>
SYMCONV_INLINE void next_set(FoldArguments<T>& f) {
  f.at.move = 0;
  if (++f.at.set < f.set_count) return;
  f.at.set = 0;
  f.at.first += columns_together(f);
}

// `columns` columns of the move and set that come next, with masks, which stay in registers.
template <typename T, int Terms, bool Shared, bool Whole, typename Between>
SYMCONV_INLINE void fold_masked(const Offsets<Terms, Shared>& at, const FoldArguments<T>& f, int64_t columns,
                                Between&& between) {
  const Move& move = f.moves[f.at.move];
  const uint32_t* bits = f.masks + f.at.move * f.mask_row;
  const int64_t first = f.at.first + f.at.column;
  const auto fold = [&](const auto& masks) __attribute__((always_inline)) {
    const auto lanes = [&](int e) __attribute__((always_inline)) { return masks[e]; };
    const int count = move.count;
    const auto put = [=](T* p, Vector<T> v) __attribute__((always_inline)) {
      Whole ? store<T>(p, v) : store_partial<T>(p, v, count);
    };
    fold_moves<T, Terms, Shared, 1>(at, &move, f.planes + first * f.column, f.column,
                                    f.folded + first * f.folded_row, f.folded_row, columns, lanes, put,
                                    between);
  };
  const int* taps = f.sets[f.at.set].mask;
  const auto mask = [&](int e) __attribute__((always_inline)) { return LaneMask<T>(bits[taps[e]]); };
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

// What is left of a set with masks.
template <typename T, int Terms, bool Shared, typename Between>
__attribute__((noinline)) void fold_masked_set(FoldArguments<T>& f, Between& between) {
  const Offsets<Terms, Shared> at(f, f.sets[f.at.set]);
  for (; f.at.move < f.move_count; ++f.at.move) {
    const int64_t columns = columns_left(f);
    if (f.moves[f.at.move].count == kLanes<T>) {
      fold_masked<T, Terms, Shared, true>(at, f, columns, between);
    } else {
      fold_masked<T, Terms, Shared, false>(at, f, columns, between);
    }
    f.at.column = 0;
  }
}

// between() is called after every column of some moves.
template <typename T, typename Between>
SYMCONV_INLINE void fold(FoldArguments<T>& f, Between& between) {
  for (; !f.finished(); next_set(f)) {
    const PlaneSet& set = f.sets[f.at.set];
    with_power(set.terms, [&](auto terms) {
      if (f.masks) {
        set.shared ? fold_masked_set<T, terms(), true>(f, between)
                   : fold_masked_set<T, terms(), false>(f, between);
      } else {
        set.shared ? fold_set<T, terms(), true>(f, set, f.at.first, columns_left(f), between)
                   : fold_set<T, terms(), false>(f, set, f.at.first, columns_left(f), between);
      }
    });
  }
}

template <typename T>
void fold(FoldArguments<T>& f) {
  fold(f, kNothing);
}

// Whether what comes next can be folded on the side.
template <typename T>
SYMCONV_INLINE bool can_fold_aside(const FoldArguments<T>& f) {
  return f.masks && !f.finished();
}

// The next columns of a fold, at most `most`, of the same move and set; between() is called after each.
// Returns how many they were: none if they cannot be folded on the side.
template <typename T, typename Between>
SYMCONV_INLINE int64_t fold_aside(FoldArguments<T>& f, int64_t most, Between&& between) {
  if (!can_fold_aside(f)) return 0;
  const PlaneSet& set = f.sets[f.at.set];
  const int64_t columns = std::min(columns_left(f), most);
  const auto run = [&](auto terms, auto shared) __attribute__((always_inline)) {
    const Offsets<terms(), shared()> at(f, set);
    // Stored with a mask, whole vectors too, which is as fast: moves may end with the panel.
    fold_masked<T, terms(), shared(), false>(at, f, columns, between);
  };
  with_power(set.terms, [&](auto terms) __attribute__((always_inline)) {
    set.shared ? run(terms, std::true_type{}) : run(terms, std::false_type{});
  });
  f.at.column += columns;
  if (columns_left(f) == 0) {
    f.at.column = 0;
    if (++f.at.move == f.move_count) next_set(f);
  }
  return columns;
}

}  // namespace
}  // namespace symconv::cpu
