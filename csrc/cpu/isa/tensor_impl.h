// What of kernels.h reads and writes tensors: staging and the epilogue.
#pragma once

#include <algorithm>
#include <type_traits>

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
  // Channels last: blocks of points and columns are transposed, of the same points one after the other, as
  // they lie in memory.
  if (column_stride == 1 && point_stride != 1) {
    for (int64_t i = 0; i < n; i += L) {
      const int points = elements_at<T>(i, n);
      for (int64_t column = 0; column < columns; column += L) {
        const int width = elements_at<T>(column, columns);
        const Stored* from = source + column + i * point_stride;
        T* row = target + column * plane + i;
        Vector<T> block[L];
        if (width == L && points == L) {
          load_transposed_as<T, Stored>([&](int p) { return from + p * point_stride; }, block);
#pragma GCC unroll 16
          for (int c = 0; c < L; ++c) {
            store<T>(row, block[c]);
            row = opaque(row + plane);
          }
          continue;
        }
        for (int p = 0; p < points; ++p) block[p] = load_as<T>(from + p * point_stride, width);
        for (int p = points; p < L; ++p) block[p] = Vector<T>{};
        transpose<T>(block);
        for (int c = 0; c < width; ++c) store<T>(row + c * plane, block[c]);
      }
    }
    return;
  }
  for (int64_t column = 0; column < columns; ++column) {
    const Stored* from = source + column * column_stride;
    T* to = target + column * plane;
    if (point_stride == 1) {
      int64_t i = 0;
      for (; i + L <= n; i += L) store<T>(to + i, load_as<T>(from + i));
      if (i < n) {
        const int rest = static_cast<int>(n - i);
        store_partial<T>(to + i, load_as<T>(from + i, rest), rest);
      }
    } else if (point_stride == 2) {
      int64_t i = 0;
      for (; i + L <= n; i += L) store<T>(to + i, load_even<T>(from + 2 * i, L));
      if (i < n) {
        const int rest = static_cast<int>(n - i);
        store_partial<T>(to + i, load_even<T>(from + 2 * i, rest), rest);
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

template <typename T, typename Stored>
void stage_rows_typed(const Stored* source, const StagedRun* runs, int64_t run_count, T* target) {
  constexpr int L = kLanes<T>;
  // The lowest n of 64 bits.
  const auto lowest = [](int64_t n) { return n <= 0 ? 0 : n < 64 ? (uint64_t{1} << n) - 1 : ~uint64_t{0}; };
  for (const StagedRun* run = runs; run != runs + run_count; ++run) {
    const Stored* from = source + (run->source - run->low);
    T* to = target + run->position;
    const int64_t low = run->low, high = run->high, count = run->count;
    for (int64_t first = 0; first < count; first += 64) {
      uint64_t inside = lowest(high - first) & ~lowest(low - first);
      const int64_t last = count - first < 64 ? count : first + 64;
      for (int64_t i = first; i < last; i += L, inside >>= L) {
        store<T>(to + i, load_lanes<T>(from + i, static_cast<uint32_t>(inside)));
      }
    }
  }
}

template <typename T>
void stage_rows(DType dtype, const void* source, const StagedRun* runs, int64_t run_count, T* target) {
  with_storage<T>(dtype, [&](auto s) {
    stage_rows_typed<T>(static_cast<const decltype(s)*>(source), runs, run_count, target);
  });
}

// In local variables, as below.
template <typename T, int Count>
void add_rows_of(const SignedRow<T>* rows, int64_t n, T* out) {
  const T* data[Count];
  Vector<T> sign[Count];
  for (int j = 0; j < Count; ++j) {
    data[j] = rows[j].data;
    sign[j] = Vector<T>{} + rows[j].sign;
  }
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    Vector<T> sum{};
#pragma GCC unroll 4
    for (int j = 0; j < Count; ++j) sum += sign[j] * load<T>(data[j] + i);
    store<T>(out + i, sum);
  }
}

template <typename T>
void add_rows(const SignedRow<T>* rows, int count, int64_t n, T* out) {
  switch (count) {
    case 0:
      std::fill_n(out, n, T(0));
      return;
    case 1:
      return add_rows_of<T, 1>(rows, n, out);
    case 2:
      return add_rows_of<T, 2>(rows, n, out);
    case 3:
      return add_rows_of<T, 3>(rows, n, out);
    default:
      break;
  }
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    Vector<T> sum{};
    for (int j = 0; j < count; ++j) sum += rows[j].sign * load<T>(rows[j].data + i);
    store<T>(out + i, sum);
  }
}

// The slots of an orbit are rows of their own.
template <typename T, int Slots>
struct SlotRows {
  int64_t slot;

  explicit SlotRows(const EpilogueArguments<T>& a) : slot(a.slot) {}

  SYMCONV_INLINE void load(const T* row, int count, Vector<T>* y) const {
#pragma GCC unroll 8
    for (int q = 0; q < Slots; ++q) y[q] = load_as<T>(row + q * slot, count);
  }
};

// They are sums of rows, as many as three folded taps along v give inside an image: three for the slots that
// are even along v, the first ones, two for the others. Most points of an image are such, and without loops
// over the terms a transposed orbit takes a sixth less time.
template <typename T, int Slots>
struct SlotsOfThree {
  static constexpr int before(int q) { return 2 * q <= Slots ? 3 * q : Slots / 2 + 2 * q; }
  int64_t offset[before(Slots)];
  Vector<T> sign[before(Slots)];

  static bool fits(const EpilogueArguments<T>& a) {
    for (int q = 0; q < Slots; ++q) {
      if (a.term_count[q] != before(q + 1) - before(q)) return false;
    }
    return true;
  }
  explicit SlotsOfThree(const EpilogueArguments<T>& a) {
    for (int i = 0; i < before(Slots); ++i) {
      offset[i] = a.terms[i].offset;
      sign[i] = Vector<T>{} + a.terms[i].sign;
    }
  }

  SYMCONV_INLINE void load(const T* row, int, Vector<T>* y) const {
#pragma GCC unroll 8
    for (int q = 0; q < Slots; ++q) {
      const int i = before(q);
      y[q] = sign[i] * cpu::load<T>(row + offset[i]) + sign[i + 1] * cpu::load<T>(row + offset[i + 1]);
      if (before(q + 1) - i == 3) y[q] += sign[i + 2] * cpu::load<T>(row + offset[i + 2]);
    }
  }
};

// They are sums of any number of rows, but `Least` of them at least.
template <typename T, int Slots, int Least>
struct SlotSums {
  const SlotTerm<T>* terms[Slots + 1];  // where those of a slot begin

  explicit SlotSums(const EpilogueArguments<T>& a) : terms{a.terms} {
    for (int q = 0; q < Slots; ++q) terms[q + 1] = terms[q] + a.term_count[q];
  }

  SYMCONV_INLINE void load(const T* row, int, Vector<T>* y) const {
#pragma GCC unroll 8
    for (int q = 0; q < Slots; ++q) {
      const SlotTerm<T>* term = terms[q];
      y[q] = Vector<T>{};
#pragma GCC unroll 2
      for (int j = 0; j < Least; ++j, ++term) y[q] += term->sign * cpu::load<T>(row + term->offset);
#pragma GCC unroll 1
      for (; term != terms[q + 1]; ++term) y[q] += term->sign * cpu::load<T>(row + term->offset);
    }
  }
};

// The outputs of an orbit for `count` points from the rows' start on.
template <typename T, int Slots, typename Rows>
SYMCONV_INLINE void butterfly_row(const Rows& rows, const T* row, const T* bias, int count, Vector<T>* y) {
  rows.load(row, count, y);
  hadamard<Slots>(y);
#pragma GCC unroll 8
  for (int e = 0; e < Slots; ++e) y[e] += bias[e];
}

// Everything that the loops need is in local variables: a store may alias what is behind a pointer.
template <typename T, typename Stored, int Slots, typename Rows>
void epilogue_typed(const EpilogueArguments<T>& a) {
  constexpr int L = kLanes<T>;
  const Rows slots(a);
  const int64_t orbits = a.orbits, points = a.points;
  const int64_t orbit_stride = a.orbit_stride, point_stride = a.point_stride;
  const T* const accumulators = a.accumulators;
  const int64_t row = a.row;
  Stored* output[Slots];
  for (int e = 0; e < Slots; ++e) output[e] = static_cast<Stored*>(a.output[e]);
  const auto biases = [&](int64_t orbit, T* bias) {  // without a bias: the zero that leaves -0 as it is
#pragma GCC unroll 8
    for (int e = 0; e < Slots; ++e) bias[e] = a.bias[e] ? a.bias[e][orbit] : T(-0.0);
  };
  if (orbit_stride == 1 && point_stride != 1) {  // channels last: transpose blocks of orbits and points
    // Few orbits, the copies of which lie next to each other: their channels are transposed together.
    int place[Slots];  // of an output among the others, in memory
    for (int e = 0; e < Slots; ++e) {
      place[e] = 0;
      for (int other = 0; other < Slots; ++other) place[e] += output[other] < output[e];
    }
    bool together = orbits < L;
    const Stored* lowest = output[0];
    for (int e = 0; e < Slots; ++e) lowest = output[e] < lowest ? output[e] : lowest;
    for (int e = 0; e < Slots; ++e) together = together && output[e] == lowest + place[e] * orbits;
    for (int64_t orbit = 0; orbit < orbits; orbit += L) {
      const int rows = elements_at<T>(orbit, orbits), channels = together ? Slots * rows : rows;
      for (int64_t i = 0; i < points; i += L) {
        const int count = elements_at<T>(i, points);
        if constexpr (std::is_same_v<Rows, SlotRows<T, 1>>) {  // there is nothing to do before
          if (count == L && rows == L) {
            const Vector<T> bias = a.bias[0] ? load<T>(a.bias[0] + orbit) : -Vector<T>{};
            Vector<T> y[L];
            load_transposed<T>([&](int r) { return accumulators + (orbit + r) * row + i; }, y);
            Stored* to = output[0] + orbit + i * point_stride;
#pragma GCC unroll 16
            for (int p = 0; p < L; ++p) {
              store_as<T>(to, y[p] + bias, L);
              to = opaque(to + point_stride);
            }
            continue;
          }
        }
        alignas(64) T block[(Slots + 1) * L][L];  // the outputs' rows, output by output in the order of place
        for (int r = 0; r < rows; ++r) {
          T bias[Slots];
          biases(orbit + r, bias);
          Vector<T> y[Slots];
          butterfly_row<T, Slots>(slots, accumulators + (orbit + r) * row + i, bias, count, y);
#pragma GCC unroll 8
          for (int e = 0; e < Slots; ++e) store<T>(block[place[e] * rows + r], y[e]);
        }
        for (int e = 0; e < Slots; ++e) {
          if (together && place[e] > 0) continue;
          for (int first = 0; first < channels; first += L) {
            const int width = channels - first < L ? channels - first : L;
            const T(*from)[L] = block + place[e] * rows + first;
            Vector<T> y[L];
            load_transposed<T>([&](int r) { return from[r]; }, y);
            Stored* to = output[e] + orbit + first + i * point_stride;
            if (count == L && width == L) {
#pragma GCC unroll 16
              for (int p = 0; p < L; ++p) {
                store_as<T>(to, y[p], L);
                to = opaque(to + point_stride);
              }
            } else {
              for (int p = 0; p < count; ++p) store_as<T>(to + p * point_stride, y[p], width);
            }
          }
        }
      }
    }
    return;
  }
  for (int64_t orbit = 0; orbit < orbits; ++orbit) {
    const T* from = accumulators + orbit * row;
    T bias[Slots];
    biases(orbit, bias);
    Vector<T> y[Slots];
    int64_t i = 0;
    if (point_stride == 1) {
      for (; i + L <= points; i += L) {
        butterfly_row<T, Slots>(slots, from + i, bias, L, y);
#pragma GCC unroll 8
        for (int e = 0; e < Slots; ++e) store_as<T>(output[e] + orbit * orbit_stride + i, y[e], L);
      }
    }
    for (; i < points; i += L) {
      const int count = elements_at<T>(i, points);
      butterfly_row<T, Slots>(slots, from + i, bias, count, y);
#pragma GCC unroll 8
      for (int e = 0; e < Slots; ++e) {
        Stored* to = output[e] + orbit * orbit_stride + i * point_stride;
        if (point_stride == 1) {
          store_as<T>(to, y[e], count);
        } else if (point_stride == 2) {
          store_even<T>(to, y[e], count);
        } else {
          for (int p = 0; p < count; ++p) to[p * point_stride] = narrow<T, Stored>(y[e][p]);
        }
      }
    }
  }
}

template <typename T>
void epilogue(DType dtype, const EpilogueArguments<T>& a) {
  with_storage<T>(dtype, [&](auto s) {
    using Stored = decltype(s);
    with_power(a.slots, [&](auto slots) {
      constexpr int kSlots = slots();
      if (!a.terms) return epilogue_typed<T, Stored, kSlots, SlotRows<T, kSlots>>(a);
      if constexpr (kSlots == 2 || kSlots == 4) {
        using Three = SlotsOfThree<T, kSlots>;
        if (Three::fits(a)) return epilogue_typed<T, Stored, kSlots, Three>(a);
      }
      if (*std::min_element(a.term_count, a.term_count + kSlots) < 2) {
        return epilogue_typed<T, Stored, kSlots, SlotSums<T, kSlots, 0>>(a);
      }
      epilogue_typed<T, Stored, kSlots, SlotSums<T, kSlots, 2>>(a);
    });
  });
}

}  // namespace
}  // namespace symconv::cpu
