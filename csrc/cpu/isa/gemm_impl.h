// The GEMM of kernels.h: one micro-tile for every number of rows and vectors.
#pragma once

#include "../kernels.h"
#include "fold_impl.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

// How many partial sums each element of a tile has: a small tile has too few accumulators to keep two
// multiply-adds of four or five cycles' latency going, so it takes that many k at once.
constexpr int chains(int accumulators, int vectors, int most) {
  int n = 4;
  while (n > 1 && (n * accumulators > most || n * accumulators + vectors >= kRegisters)) n /= 2;
  return n;
}

// A fold on the side needs registers beside those of a tile: as many as a set has terms, and its masks. Where
// masks have their own there are enough.
constexpr bool kFoldsAside = kMaskRegisters;

// Packed: a_row = 1 and a_col = M are known when this is compiled. Busy, which only packed tiles are: every
// few k a line is asked for and, where kFoldsAside, with every k a column of a vector is folded. The loads
// and stores of the one then fill the gaps that the multiplications of the other leave. Of many lines at once
// a processor may drop those that it has no buffer for.
template <typename T, int M, int V, bool Packed, bool Busy>
void gemm_tile(const T* a, int64_t a_row, int64_t a_col, const Segment<T>* segments, int count, int64_t b_row,
               T* c, int64_t c_row, bool accumulate, const Aside<T>& aside) {
  constexpr int L = kLanes<T>, Chains = chains(M * V, V, Packed ? 12 : 16);
  Vector<T> partial[Chains][M][V] = {};
  const auto add_products = [&](const T* b, Vector<T>(*sum)[V]) __attribute__((always_inline)) {
    Vector<T> bk[V];
#pragma GCC unroll 3
    for (int j = 0; j < V; ++j) bk[j] = load<T>(b + j * L);
#pragma GCC unroll 32
    for (int i = 0; i < M; ++i) {
      const T ai = Packed ? a[i] : a[i * a_row];
#pragma GCC unroll 3
      for (int j = 0; j < V; ++j) sum[i][j] += ai * bk[j];
    }
    a += Packed ? M : a_col;
  };
  int line_count = Busy ? aside.line_count : 0;
  Lines lines = line_count > 0 ? *aside.lines : Lines{};
  int64_t until_line = 0, interval = 0;  // in k; none is left at 0
  const auto ask_for_next = [&]() __attribute__((always_inline)) {
    ask_for(lines.next());
    until_line = --line_count > 0 ? interval : 0;
  };
  if (line_count > 0) {
    int64_t all = 0;
    for (int s = 0; s < count; ++s) all += segments[s].k;
    until_line = interval = std::max<int64_t>(1, all / line_count);
  }
  for (int s = 0; s < count; ++s) {
    const T* b = segments[s].b;
    int64_t k = segments[s].k;
    if constexpr (Busy) {
      const auto add_next = [&]() __attribute__((always_inline)) {
        if (--until_line == 0) ask_for_next();
        add_products(b, partial[0]);
        b += b_row;
      };
      if constexpr (kFoldsAside) {
        while (k > 0 && aside.fold) {
          const int64_t done = fold_aside(*aside.fold, k, add_next);
          if (done == 0) break;
          k -= done;
        }
      }
      for (; k > 0 && line_count > 0; --k) add_next();
    }
    for (; k >= Chains; k -= Chains) {
#pragma GCC unroll 4
      for (int n = 0; n < Chains; ++n, b += b_row) add_products(b, partial[n]);
    }
    if constexpr (Chains > 1) {
      for (; k > 0; --k, b += b_row) add_products(b, partial[0]);
    }
  }
  if (Busy && aside.line_count > 0) {
    while (line_count > 0) ask_for_next();
    *aside.lines = lines;
  }
  Vector<T>(*sum)[V] = partial[0];
#pragma GCC unroll 4
  for (int n = Chains / 2; n > 0; n /= 2) {
#pragma GCC unroll 4
    for (int l = 0; l < n; ++l) {
#pragma GCC unroll 32
      for (int i = 0; i < M; ++i) {
#pragma GCC unroll 3
        for (int j = 0; j < V; ++j) partial[l][i][j] += partial[l + n][i][j];
      }
    }
  }
  // Walking from row to row: the compiler would otherwise work out all the addresses beforehand, and spill.
  if (accumulate) {
    const T* row = c;
#pragma GCC unroll 32
    for (int i = 0; i < M; ++i) {
#pragma GCC unroll 3
      for (int j = 0; j < V; ++j) sum[i][j] += load<T>(row + j * L);
      row = opaque(row + c_row);
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < V; ++j) store<T>(c + j * L, sum[i][j]);
    c = opaque(c + c_row);
  }
}

template <typename T>
using GemmTile = void (*)(const T*, int64_t, int64_t, const Segment<T>*, int, int64_t, T*, int64_t, bool,
                          const Aside<T>&);

template <typename T, int Rows, int Vectors>
struct Gemm {
  template <bool Packed, int... I>
  static GemmTile<T> find(int m, int v, std::integer_sequence<int, I...>) {
    static constexpr GemmTile<T> table[] = {gemm_tile<T, I / Vectors + 1, I % Vectors + 1, Packed, false>...};
    return table[(m - 1) * Vectors + v - 1];
  }
  // For whole panels of packed rows, which take nearly all the time.
  template <int... I>
  static GemmTile<T> find_busy(int v, std::integer_sequence<int, I...>) {
    static constexpr GemmTile<T> table[] = {gemm_tile<T, Rows, I + 1, true, true>...};
    return table[v - 1];
  }
  static void run(int m, int v, const T* a, int64_t a_row, int64_t a_col, const Segment<T>* segments,
                  int count, int64_t b_row, T* c, int64_t c_row, bool accumulate, const Aside<T>& aside) {
    using All = std::make_integer_sequence<int, Rows * Vectors>;
    using Whole = std::make_integer_sequence<int, Vectors>;
    const bool packed = a_row == 1 && a_col == m;
    const bool busy = aside.line_count > 0 || (kFoldsAside && aside.fold && can_fold_aside(*aside.fold));
    GemmTile<T> tile;
    if (packed && m == Rows && busy) {
      tile = find_busy(v, Whole{});
    } else {
      for (int i = 0; i < aside.line_count; ++i) ask_for(aside.lines->next());
      tile = packed ? find<true>(m, v, All{}) : find<false>(m, v, All{});
    }
    tile(a, a_row, a_col, segments, count, b_row, c, c_row, accumulate, aside);
  }
};

}  // namespace
}  // namespace symconv::cpu
