// The micro-kernels of kernels.h for one instruction set. Included by avx512.cpp, avx2.cpp, neon.cpp and
// portable.cpp.
#pragma once

#include <type_traits>

#include "../../common/fold.h"
#include "../kernels.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

// Calls f with an element of the storage type; T = double computes on float64 only, T = float on the other
// three.
template <typename T, typename F>
SYMCONV_INLINE void with_storage(DType dtype, F&& f) {
  if constexpr (sizeof(T) == 8) {
    f(double{});
  } else {
    if (dtype == DType::kFloat32) return f(float{});
    if (dtype == DType::kFloat16) return f(Float16{});
    f(BFloat16{});
  }
}

// Calls f with std::integral_constant<int, n> for n = 1, 2, 4, 8.
template <typename F>
SYMCONV_INLINE void with_power(int n, F&& f) {
  if (n == 1) return f(std::integral_constant<int, 1>{});
  if (n == 2) return f(std::integral_constant<int, 2>{});
  if (n == 4) return f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, 8>{});
}

// ---- gemm
// ----------------------------------------------------------------------------------------------------------

// Packed: a_row = 1 and a_col = M are known when this is compiled.
template <typename T, int M, int V, bool Packed>
void gemm_tile(const T* a, int64_t a_row, int64_t a_col, const Segment<T>* segments, int count, int64_t b_row,
               T* c, int64_t c_row, bool accumulate) {
  constexpr int L = kLanes<T>;
  Vector<T> sum[M][V];
#pragma GCC unroll 32
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < V; ++j) sum[i][j] = Vector<T>{};
  }
  for (int s = 0; s < count; ++s) {
    const T* b = segments[s].b;
    for (int64_t k = segments[s].k; k > 0; --k) {
      Vector<T> bk[V];
#pragma GCC unroll 3
      for (int j = 0; j < V; ++j) bk[j] = load<T>(b + j * L);
#pragma GCC unroll 32
      for (int i = 0; i < M; ++i) {
        const T ai = Packed ? a[i] : a[i * a_row];
#pragma GCC unroll 3
        for (int j = 0; j < V; ++j) sum[i][j] += ai * bk[j];
      }
      b += b_row;
      a += Packed ? M : a_col;
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < M; ++i) {
#pragma GCC unroll 3
    for (int j = 0; j < V; ++j) {
      T* p = c + i * c_row + j * L;
      store<T>(p, accumulate ? load<T>(p) + sum[i][j] : sum[i][j]);
    }
  }
}

template <typename T>
using GemmTile = void (*)(const T*, int64_t, int64_t, const Segment<T>*, int, int64_t, T*, int64_t, bool);

template <typename T, int Rows, int Vectors>
struct Gemm {
  template <bool Packed, int... I>
  static GemmTile<T> find(int m, int v, std::integer_sequence<int, I...>) {
    static constexpr GemmTile<T> table[] = {gemm_tile<T, I / Vectors + 1, I % Vectors + 1, Packed>...};
    return table[(m - 1) * Vectors + v - 1];
  }
  static void run(int m, int v, const T* a, int64_t a_row, int64_t a_col, const Segment<T>* segments,
                  int count, int64_t b_row, T* c, int64_t c_row, bool accumulate) {
    using All = std::make_integer_sequence<int, Rows * Vectors>;
    const bool packed = a_row == 1 && a_col == m;
    const GemmTile<T> tile = packed ? find<true>(m, v, All{}) : find<false>(m, v, All{});
    tile(a, a_row, a_col, segments, count, b_row, c, c_row, accumulate);
  }
};

// ---- fold
// ----------------------------------------------------------------------------------------------------------

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

// ---- stage
// ---------------------------------------------------------------------------------------------------------

template <typename T, typename Stored>
void stage_typed(const Stored* source, int64_t column_stride, int64_t point_stride, int64_t columns,
                 int64_t n, T* target, int64_t plane) {
  constexpr int L = kLanes<T>;
  int64_t column = 0;
  if (column_stride == 1 && point_stride != 1) {
    for (; column + L <= columns; column += L) {
      for (int64_t i = 0; i < n; i += L) {
        const int points = static_cast<int>(n - i < L ? n - i : L);
        Vector<T> block[L];
        if (points == L) {
#pragma GCC unroll 16
          for (int r = 0; r < L; ++r) block[r] = load_as<T>(source + column + (i + r) * point_stride);
        } else {
          for (int r = 0; r < L; ++r) {
            block[r] = r < points ? load_as<T>(source + column + (i + r) * point_stride) : Vector<T>{};
          }
        }
        transpose<T>(block);
#pragma GCC unroll 16
        for (int c = 0; c < L; ++c) store<T>(target + (column + c) * plane + i, block[c]);
      }
    }
  }
  for (; column < columns; ++column) {
    const Stored* from = source + column * column_stride;
    T* to = target + column * plane;
    int64_t i = 0;
    if (point_stride == 1) {
      for (; i + L <= n; i += L) store<T>(to + i, load_as<T>(from + i));
    }
    for (; i < n; ++i) to[i] = widen<T>(from[i * point_stride]);
  }
}

template <typename T>
void stage(DType dtype, const void* source, int64_t column_stride, int64_t point_stride, int64_t columns,
           int64_t n, T* target, int64_t plane) {
  with_storage<T>(dtype, [&](auto s) {
    using Stored = decltype(s);
    stage_typed<T>(static_cast<const Stored*>(source), column_stride, point_stride, columns, n, target,
                   plane);
  });
}

// ---- epilogue
// ------------------------------------------------------------------------------------------------------

template <typename T, int Slots>
SYMCONV_INLINE void butterfly_row(const EpilogueArguments<T>& a, int64_t orbit, int64_t point, Vector<T>* y) {
  const T* row = a.accumulators + orbit * a.row + point;
#pragma GCC unroll 8
  for (int q = 0; q < Slots; ++q) y[q] = load<T>(row + q * a.slot);
  hadamard<Slots>(y);
#pragma GCC unroll 8
  for (int e = 0; e < Slots; ++e) {
    if (a.bias[e]) y[e] += a.bias[e][orbit];
  }
}

template <typename T, typename Stored, int Slots>
void epilogue_typed(const EpilogueArguments<T>& a) {
  constexpr int L = kLanes<T>;
  Stored* output[Slots];
  for (int e = 0; e < Slots; ++e) output[e] = static_cast<Stored*>(a.output[e]);
  int64_t orbit = 0;
  if (a.orbit_stride == 1 && a.point_stride != 1) {  // channels last: transpose blocks of orbits and points
    for (; orbit + L <= a.orbits; orbit += L) {
      for (int64_t i = 0; i < a.points; i += L) {
        Vector<T> block[Slots][L];
        for (int r = 0; r < L; ++r) {
          Vector<T> y[Slots];
          butterfly_row<T, Slots>(a, orbit + r, i, y);
#pragma GCC unroll 8
          for (int e = 0; e < Slots; ++e) block[e][r] = y[e];
        }
        const int points = static_cast<int>(a.points - i < L ? a.points - i : L);
        for (int e = 0; e < Slots; ++e) {
          transpose<T>(block[e]);
          for (int r = 0; r < points; ++r) {
            store_as<T>(output[e] + orbit + (i + r) * a.point_stride, block[e][r], L);
          }
        }
      }
    }
  }
  for (; orbit < a.orbits; ++orbit) {
    for (int64_t i = 0; i < a.points; i += L) {
      const int points = static_cast<int>(a.points - i < L ? a.points - i : L);
      Vector<T> y[Slots];
      butterfly_row<T, Slots>(a, orbit, i, y);
      for (int e = 0; e < Slots; ++e) {
        Stored* to = output[e] + orbit * a.orbit_stride + i * a.point_stride;
        if (a.point_stride == 1) {
          store_as<T>(to, y[e], points);
        } else {
          for (int p = 0; p < points; ++p) to[p * a.point_stride] = narrow<T, Stored>(y[e][p]);
        }
      }
    }
  }
}

template <typename T>
void epilogue(DType dtype, const EpilogueArguments<T>& a) {
  with_storage<T>(dtype, [&](auto s) {
    with_power(a.slots, [&](auto slots) { epilogue_typed<T, decltype(s), slots()>(a); });
  });
}

// ---- slots of grad_output
// ------------------------------------------------------------------------------------------

template <typename T, typename Stored, int Slots>
void slots_typed(const void* const* sources, int64_t orbit_stride, int64_t point_stride, int64_t orbits,
                 int64_t points, T* target, int64_t point_row, int64_t slot) {
  constexpr int L = kLanes<T>;
  const Stored* source[Slots];
  for (int e = 0; e < Slots; ++e) source[e] = static_cast<const Stored*>(sources[e]);
  if (point_stride == 1 && orbit_stride != 1) {  // planar: transpose blocks of orbits and points
    for (int64_t orbit = 0; orbit < orbits; orbit += L) {
      const int rows = static_cast<int>(orbits - orbit < L ? orbits - orbit : L);
      for (int64_t i = 0; i < points; i += L) {
        const int count = static_cast<int>(points - i < L ? points - i : L);
        Vector<T> block[Slots][L];
        for (int r = 0; r < L; ++r) {
          Vector<T> y[Slots];
          for (int e = 0; e < Slots; ++e) {
            const Stored* from = source[e] + (orbit + r) * orbit_stride + i;
            y[e] = r >= rows ? Vector<T>{} : count == L ? load_as<T>(from) : load_as_partial<T>(from, count);
          }
          hadamard<Slots>(y);
#pragma GCC unroll 8
          for (int q = 0; q < Slots; ++q) block[q][r] = y[q];
        }
        for (int q = 0; q < Slots; ++q) {
          transpose<T>(block[q]);
          for (int p = 0; p < count; ++p) {
            store_as<T>(target + (i + p) * point_row + q * slot + orbit, block[q][p], rows);
          }
        }
      }
    }
    return;
  }
  for (int64_t i = 0; i < points; ++i) {
    T* to = target + i * point_row;
    for (int64_t orbit = 0; orbit < orbits; orbit += L) {
      const int count = static_cast<int>(orbits - orbit < L ? orbits - orbit : L);
      Vector<T> y[Slots];
      for (int e = 0; e < Slots; ++e) {
        const Stored* from = source[e] + orbit * orbit_stride + i * point_stride;
        if (orbit_stride == 1) {
          y[e] = count == L ? load_as<T>(from) : load_as_partial<T>(from, count);
        } else {
          T lanes[L] = {};
          for (int r = 0; r < count; ++r) lanes[r] = widen<T>(from[r * orbit_stride]);
          y[e] = load<T>(lanes);
        }
      }
      hadamard<Slots>(y);
      for (int q = 0; q < Slots; ++q) store_as<T>(to + q * slot + orbit, y[q], count);
    }
  }
}

template <typename T>
void slots(DType dtype, int count, const void* const* source, int64_t orbit_stride, int64_t point_stride,
           int64_t orbits, int64_t points, T* target, int64_t point_row, int64_t slot) {
  with_storage<T>(dtype, [&](auto s) {
    with_power(count, [&](auto n) {
      slots_typed<T, decltype(s), n()>(source, orbit_stride, point_stride, orbits, points, target, point_row,
                                       slot);
    });
  });
}

// ---- weight fold
// ---------------------------------------------------------------------------------------------------

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

// The table of one instruction set, for a micro-tile of Rows x Vectors.
template <typename T, int Rows, int Vectors>
constexpr Kernels<T> make_kernels(const char* name, int64_t l1_bytes, int64_t l2_bytes) {
  return {name,
          kLanes<T>,
          Vectors,
          Rows,
          l1_bytes,
          l2_bytes,
          Gemm<T, Rows, Vectors>::run,
          fold<T>,
          stage<T>,
          epilogue<T>,
          slots<T>,
          fold_weight<T, Rows>};
}

}  // namespace
}  // namespace symconv::cpu
