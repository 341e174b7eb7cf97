// What of kernels.h reads and writes tensors: staging, the epilogue, the slots of grad_output.
#pragma once

#include "../../common/fold.h"
#include "../kernels.h"
#include "dispatch.h"
#include "elements.h"

namespace symconv::cpu {
namespace {

template <typename T, typename Stored>
void stage_typed(const Stored* source, int64_t column_stride, int64_t point_stride, int64_t columns,
                 int64_t n, T* target, int64_t plane) {
  constexpr int L = kLanes<T>;
  if (column_stride == 1 && point_stride != 1) {  // channels last: transpose blocks of points and columns
    for (int64_t column = 0; column < columns; column += L) {
      const int width = elements_at<T>(column, columns);
      for (int64_t i = 0; i < n; i += L) {
        const int points = elements_at<T>(i, n);
        const Stored* from = source + column + i * point_stride;
        T* to = target + column * plane + i;
        Vector<T> block[L];
        if (points == L && width == L) {
#pragma GCC unroll 16
          for (int p = 0; p < L; ++p) block[p] = load_as<T>(from + p * point_stride);
          transpose<T>(block);
#pragma GCC unroll 16
          for (int c = 0; c < L; ++c) store<T>(to + c * plane, block[c]);
        } else {
          for (int p = 0; p < points; ++p) block[p] = load_as<T>(from + p * point_stride, width);
          for (int p = points; p < L; ++p) block[p] = Vector<T>{};
          transpose<T>(block);
          for (int c = 0; c < width; ++c) store<T>(to + c * plane, block[c]);
        }
      }
    }
    return;
  }
  for (int64_t column = 0; column < columns; ++column) {
    const Stored* from = source + column * column_stride;
    T* to = target + column * plane;
    if (point_stride == 1) {
      for (int64_t i = 0; i < n; i += L) {
        const int points = elements_at<T>(i, n);
        store_as<T>(to + i, load_as<T>(from + i, points), points);
      }
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = widen<T>(from[i * point_stride]);
    }
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

// The outputs of one orbit, for `count` points from `point` on.
template <typename T, int Slots>
SYMCONV_INLINE void butterfly_row(const EpilogueArguments<T>& a, int64_t orbit, int64_t point, int count,
                                  Vector<T>* y) {
  const T* row = a.accumulators + orbit * a.row + point;
#pragma GCC unroll 8
  for (int q = 0; q < Slots; ++q) y[q] = load_as<T>(row + q * a.slot, count);
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
  if (a.orbit_stride == 1 && a.point_stride != 1) {  // channels last: transpose blocks of orbits and points
    for (int64_t orbit = 0; orbit < a.orbits; orbit += L) {
      const int rows = elements_at<T>(orbit, a.orbits);
      for (int64_t i = 0; i < a.points; i += L) {
        const int points = elements_at<T>(i, a.points);
        Vector<T> block[Slots][L];
        for (int r = 0; r < rows; ++r) {
          Vector<T> y[Slots];
          butterfly_row<T, Slots>(a, orbit + r, i, points, y);
#pragma GCC unroll 8
          for (int e = 0; e < Slots; ++e) block[e][r] = y[e];
        }
        for (int e = 0; e < Slots; ++e) {
          for (int r = rows; r < L; ++r) block[e][r] = Vector<T>{};
          transpose<T>(block[e]);
          Stored* to = output[e] + orbit + i * a.point_stride;
          for (int p = 0; p < points; ++p) store_as<T>(to + p * a.point_stride, block[e][p], rows);
        }
      }
    }
    return;
  }
  for (int64_t orbit = 0; orbit < a.orbits; ++orbit) {
    for (int64_t i = 0; i < a.points; i += L) {
      const int points = elements_at<T>(i, a.points);
      Vector<T> y[Slots];
      butterfly_row<T, Slots>(a, orbit, i, points, y);
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

template <typename T, typename Stored, int Slots>
void slots_typed(const void* const* sources, int64_t orbit_stride, int64_t point_stride, int64_t orbits,
                 int64_t points, T* target, int64_t point_row, int64_t slot) {
  constexpr int L = kLanes<T>;
  const Stored* source[Slots];
  for (int e = 0; e < Slots; ++e) source[e] = static_cast<const Stored*>(sources[e]);
  if (point_stride == 1 && orbit_stride != 1) {  // planar: transpose blocks of orbits and points
    for (int64_t orbit = 0; orbit < orbits; orbit += L) {
      const int rows = elements_at<T>(orbit, orbits);
      for (int64_t i = 0; i < points; i += L) {
        const int count = elements_at<T>(i, points);
        Vector<T> block[Slots][L];
        for (int r = 0; r < rows; ++r) {
          Vector<T> y[Slots];
#pragma GCC unroll 8
          for (int e = 0; e < Slots; ++e) {
            y[e] = load_as<T>(source[e] + (orbit + r) * orbit_stride + i, count);
          }
          hadamard<Slots>(y);
#pragma GCC unroll 8
          for (int q = 0; q < Slots; ++q) block[q][r] = y[q];
        }
        for (int q = 0; q < Slots; ++q) {
          for (int r = rows; r < L; ++r) block[q][r] = Vector<T>{};
          transpose<T>(block[q]);
          T* to = target + i * point_row + q * slot + orbit;
          for (int p = 0; p < count; ++p) store_as<T>(to + p * point_row, block[q][p], rows);
        }
      }
    }
    return;
  }
  for (int64_t i = 0; i < points; ++i) {
    T* to = target + i * point_row;
    for (int64_t orbit = 0; orbit < orbits; orbit += L) {
      const int count = elements_at<T>(orbit, orbits);
      Vector<T> y[Slots];
      for (int e = 0; e < Slots; ++e) {
        const Stored* from = source[e] + orbit * orbit_stride + i * point_stride;
        if (orbit_stride == 1) {
          y[e] = load_as<T>(from, count);
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

}  // namespace
}  // namespace symconv::cpu
