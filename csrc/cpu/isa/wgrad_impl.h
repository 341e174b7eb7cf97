// The slots of kernels.h, and what only wgrad uses: the fold with points as rows, and the way back from
// coefficients to taps.
#pragma once

#include "../../common/fold.h"
#include "../kernels.h"
#include "dispatch.h"
#include "elements.h"

namespace symconv::cpu {
namespace {

// Asks for memory that is read soon: another channel's, or further points'. Where those end, for nothing.
SYMCONV_INLINE void ahead(const void* p) { __builtin_prefetch(p); }
constexpr int64_t kPointsAhead = 16, kLinesAhead = 4;

// Which classes want which slot: the first of them, or -1, and the others.
struct SlotTargets {
  int64_t first[kMaxTerms] = {-1, -1, -1, -1, -1, -1, -1, -1};
  int count = 0;
  struct {
    int slot;
    int64_t offset;
  } others[kMaxOrbit];
};

// Calls put(where, y) for every class of every slot; the slots are not indexed at run time, to stay in
// registers.
template <typename T, int Slots, typename Put>
SYMCONV_INLINE void for_each_class(const SlotTargets& targets, const Vector<T>* y, const Put& put) {
#pragma GCC unroll 8
  for (int q = 0; q < Slots; ++q) {
    if (targets.first[q] >= 0) put(targets.first[q], y[q]);
  }
  for (int i = 0; i < targets.count; ++i) {
    const int slot = targets.others[i].slot;
    const int64_t offset = targets.others[i].offset;
#pragma GCC unroll 8
    for (int q = 0; q < Slots; ++q) {
      if (slot == q) put(offset, y[q]);
    }
  }
}

// Points `from[e] + i`, i < count <= kLanes, of one orbit: its slots.
template <typename T, typename Stored, int Slots>
SYMCONV_INLINE void load_slots(const Stored* const* from, int64_t offset, int64_t point_stride, int count,
                               Vector<T>* y) {
#pragma GCC unroll 8
  for (int e = 0; e < Slots; ++e) {
    const Stored* p = from[e] + offset;
    if (point_stride == 1) {
      y[e] = load_as<T>(p, count);
    } else if (point_stride == 2) {
      y[e] = load_even<T>(p, count);
    } else {
      T lanes[kLanes<T>] = {};
      for (int i = 0; i < count; ++i) lanes[i] = widen<T>(p[i * point_stride]);
      y[e] = load<T>(lanes);
    }
  }
  hadamard<Slots>(y);
}

// To planes: vectors of points, wherever they come from.
template <typename T, typename Stored, int Slots>
void slots_to_planes(const SlotsArguments<T>& a, const Stored* const* source, const SlotTargets& targets) {
  constexpr int L = kLanes<T>;
  for (int64_t orbit = 0; orbit < a.orbits; ++orbit) {
    for (int r = 0; r < a.run_count; ++r) {
      const PointRun run = a.runs[r];
      T* to = a.target + orbit * a.orbit_step + run.target;
      const int64_t offset = orbit * a.orbit_stride + run.source;
      const auto put = [&](int64_t i, int count) {
        Vector<T> y[Slots];
        for (int e = 0; e < Slots; ++e) ahead(source[e] + offset + i * a.point_stride + a.orbit_stride);
        load_slots<T, Stored, Slots>(source, offset + i * a.point_stride, a.point_stride, count, y);
        for_each_class<T, Slots>(
            targets, y, [&](int64_t offset, Vector<T> v) { store_as<T>(to + offset + i, v, count); });
      };
      int64_t i = 0;
      for (; i + L <= run.count; i += L) put(i, L);
      if (i < run.count) put(i, static_cast<int>(run.count - i));
    }
  }
}

// From channels last: vectors of orbits, point by point.
template <typename T, typename Stored, int Slots>
void slots_by_points(const SlotsArguments<T>& a, const Stored* const* source, const SlotTargets& targets) {
  constexpr int L = kLanes<T>;
  const int64_t point_stride = a.point_stride, point_step = a.point_step;
  for (int64_t orbit = 0; orbit < a.orbits; orbit += L) {
    const auto each_point = [&](auto width) {
      for (int r = 0; r < a.run_count; ++r) {
        const PointRun run = a.runs[r];
        const Stored* from[Slots];
        for (int e = 0; e < Slots; ++e) from[e] = source[e] + orbit + run.source;
        T* to = a.target + orbit + run.target * point_step;
        for (int64_t i = 0; i < run.count; ++i, to += point_step) {
          Vector<T> y[Slots];
#pragma GCC unroll 8
          for (int e = 0; e < Slots; ++e) {
            ahead(from[e] + (i + kPointsAhead) * point_stride);
            y[e] = load_as<T>(from[e] + i * point_stride, width);
          }
          hadamard<Slots>(y);
          for_each_class<T, Slots>(targets, y,
                                   [&](int64_t offset, Vector<T> v) { store_as<T>(to + offset, v, width); });
        }
      }
    };
    if (a.orbits - orbit >= L) {
      each_point(std::integral_constant<int, L>{});
    } else {
      each_point(static_cast<int>(a.orbits - orbit));
    }
  }
}

// From points, where orbits lie next to each other, to planes: blocks of their slots are transposed.
template <typename T, typename Stored, int Slots>
void slots_from_points(const SlotsArguments<T>& a, const Stored* const* source) {
  constexpr int L = kLanes<T>;
  const int64_t point_stride = a.point_stride, orbit_step = a.orbit_step;
  for (int64_t orbit = 0; orbit < a.orbits; orbit += L) {
    const int width = elements_at<T>(orbit, a.orbits);
    for (int r = 0; r < a.run_count; ++r) {
      const PointRun run = a.runs[r];
      for (int64_t i = 0; i < run.count; i += L) {
        const int count = elements_at<T>(i, run.count);
        const int64_t offset = orbit + run.source + i * point_stride;
        alignas(64) T block[Slots][L][L];  // [point][orbit]; what is not set goes nowhere
        for (int p = 0; p < count; ++p) {
          Vector<T> y[Slots];
#pragma GCC unroll 8
          for (int e = 0; e < Slots; ++e) y[e] = load_as<T>(source[e] + offset + p * point_stride, width);
          hadamard<Slots>(y);
#pragma GCC unroll 8
          for (int q = 0; q < Slots; ++q) store<T>(block[q][p], y[q]);
        }
        for (int c = 0; c < a.classes; ++c) {
          const T(*const from)[L] = block[a.slot_of[c]];
          Vector<T> y[L];
          load_transposed<T>([&](int p) { return from[p]; }, y);
          T* row = a.target + c * a.class_step + orbit * orbit_step + run.target + i;
          if (count == L && width == L) {
#pragma GCC unroll 16
            for (int l = 0; l < L; ++l) {
              store<T>(row, y[l]);
              row = opaque(row + orbit_step);
            }
          } else {
            for (int l = 0; l < width; ++l, row += orbit_step) store_as<T>(row, y[l], count);
          }
        }
      }
    }
  }
}

// From planes to points: blocks of orbits and points are transposed.
template <typename T, typename Stored, int Slots>
void slots_transposed(const SlotsArguments<T>& a, const Stored* const* source, const SlotTargets& targets) {
  constexpr int L = kLanes<T>;
  const int64_t point_step = a.point_step;
  for (int64_t orbit = 0; orbit < a.orbits; orbit += L) {
    const int rows = elements_at<T>(orbit, a.orbits);
    for (int r = 0; r < a.run_count; ++r) {
      const PointRun run = a.runs[r];
      for (int64_t i = 0; i < run.count; i += L) {
        const int count = elements_at<T>(i, run.count);
        const int64_t offset = orbit * a.orbit_stride + run.source + i * a.point_stride;
        T* to = a.target + orbit + (run.target + i) * point_step;
        const auto put = [&](const Vector<T>* y, int64_t class_offset) {
          T* row = to + class_offset;
          if (rows == L) {
            for (int p = 0; p < count; ++p, row += point_step) store<T>(row, y[p]);
          } else {
            for (int p = 0; p < count; ++p, row += point_step) store_partial<T>(row, y[p], rows);
          }
        };
        const auto put_slot = [&](const Vector<T>* y, int slot) {
          if (targets.first[slot] >= 0) put(y, targets.first[slot]);
          for (int i = 0; i < targets.count; ++i) {
            if (targets.others[i].slot == slot) put(y, targets.others[i].offset);
          }
        };
        if constexpr (Slots == 1) {
          if (rows == L && (a.point_stride == 1 || a.point_stride == 2)) {
            const Stored* from = source[0] + offset;
            for (int p = 0; p < L; ++p) ahead(from + p * a.orbit_stride + kLinesAhead * 64 / sizeof(Stored));
            Vector<T> y[L];
            if (a.point_stride == 2) {
#pragma GCC unroll 16
              for (int p = 0; p < L; ++p) y[p] = load_even<T>(from + p * a.orbit_stride, count);
              transpose<T>(y);
            } else if (count == L) {
              load_transposed_as<T, Stored>([&](int p) { return from + p * a.orbit_stride; }, y);
            } else {
#pragma GCC unroll 16
              for (int p = 0; p < L; ++p) y[p] = load_as<T>(from + p * a.orbit_stride, count);
              transpose<T>(y);
            }
            put_slot(y, 0);
            continue;
          }
        }
        alignas(64) T block[Slots][L][L];  // [orbit][point]
        for (int p = 0; p < rows; ++p) {
          Vector<T> y[Slots];
          load_slots<T, Stored, Slots>(source, offset + p * a.orbit_stride, a.point_stride, count, y);
#pragma GCC unroll 8
          for (int q = 0; q < Slots; ++q) store<T>(block[q][p], y[q]);
        }
        for (int q = 0; q < Slots; ++q) {
          for (int p = rows; p < L; ++p) store<T>(block[q][p], Vector<T>{});
          Vector<T> y[L];
          load_transposed<T>([&](int p) { return block[q][p]; }, y);
          put_slot(y, q);
        }
      }
    }
  }
}

template <typename T>
void slots(DType dtype, const SlotsArguments<T>& a) {
  SlotTargets targets;
  for (int c = 0; c < a.classes; ++c) {
    const int slot = a.slot_of[c];
    if (targets.first[slot] >= 0) {
      targets.others[targets.count++] = {slot, c * a.class_step};
    } else {
      targets.first[slot] = c * a.class_step;
    }
  }
  with_storage<T>(dtype, [&](auto s) {
    using Stored = decltype(s);
    with_power(a.slots, [&](auto n) {
      const Stored* source[n()];
      for (int e = 0; e < n(); ++e) source[e] = static_cast<const Stored*>(a.source[e]);
      if (a.point_step == 1 && a.orbit_stride == 1 && a.point_stride != 1) {
        slots_from_points<T, Stored, n()>(a, source);
      } else if (a.point_step == 1) {
        slots_to_planes<T, Stored, n()>(a, source, targets);
      } else if (a.orbit_stride == 1) {
        slots_by_points<T, Stored, n()>(a, source, targets);
      } else {
        slots_transposed<T, Stored, n()>(a, source, targets);
      }
    });
  });
}

template <typename T, int Terms, int Copies>
__attribute__((noinline)) void fold_set(const PointFoldArguments<T>& a, const TapSet& set) {
  constexpr int L = kLanes<T>;
  int64_t tap[Copies][Terms], coefficient[Terms];
  for (int e = 0; e < Terms; ++e) {
    for (int c = 0; c < Copies; ++c) tap[c][e] = c * a.plane + set.tap[c][e] * L;
    coefficient[e] = set.coefficient[e] * a.step;
  }
  const int64_t point_row = a.point_row;
  for (int r = 0; r < a.run_count; ++r) {
    const PointRun run = a.runs[r];
    const T* staged = a.staged + run.source * L;
    T* folded = a.folded + run.target * point_row;
    for (int64_t i = 0; i < run.count; ++i, staged += L, folded += point_row) {
      Vector<T> x[Terms];
#pragma GCC unroll 8
      for (int e = 0; e < Terms; ++e) {
        x[e] = in_register<T>(load<T>(staged + tap[0][e]));
#pragma GCC unroll 8
        for (int c = 1; c < Copies; ++c) x[e] += load<T>(staged + tap[c][e]);
      }
      hadamard<Terms>(x);
#pragma GCC unroll 8
      for (int q = 0; q < Terms; ++q) store<T>(folded + coefficient[q], x[q]);
    }
  }
}

template <typename T>
void fold_points(const PointFoldArguments<T>& a) {
  for (int s = 0; s < a.set_count; ++s) {
    with_power(a.sets[s].terms, [&](auto terms) {
      with_power(a.copies, [&](auto copies) { fold_set<T, terms(), copies()>(a, a.sets[s]); });
    });
  }
}

// The taps of one set and one vector of lanes.
template <typename T, int Terms>
SYMCONV_INLINE void unfold_set(const UnfoldArguments<T>& a, const TapSet& set, const T* sums, Vector<T>* w) {
#pragma GCC unroll 8
  for (int q = 0; q < Terms; ++q) {
    const T* sum = sums + set.coefficient[q] * a.step;
    w[q] = load_as<T>(sum, a.lanes);
    for (int64_t s = 1; s < a.shares; ++s) w[q] += load_as<T>(sum + s * a.share, a.lanes);
  }
  hadamard<Terms>(w);
#pragma GCC unroll 8
  for (int e = 0; e < Terms; ++e) w[e] = w[e] * (T(1) / Terms);
}

template <typename T, typename Stored>
void unfold_weight_typed(const UnfoldArguments<T>& a) {
  constexpr int L = kLanes<T>;
  constexpr int64_t kTaps = 128;
  // Taps next to each other, none twice, are collected and transposed.
  int64_t taps = 0, first = 0, last = 0;
  for (int s = 0; s < a.set_count; ++s) {
    for (int e = 0; e < a.sets[s].terms; ++e, ++taps) {
      const int64_t tap = a.sets[s].tap[0][e];
      first = taps == 0 || tap < first ? tap : first;
      last = taps == 0 || tap > last ? tap : last;
    }
  }
  bool dense = a.lane_stride != 1 && last - first + 1 == taps && taps <= kTaps;
  bool seen[kTaps] = {};
  for (int s = 0; dense && s < a.set_count; ++s) {
    for (int e = 0; e < a.sets[s].terms; ++e) {
      bool& mark = seen[a.sets[s].tap[0][e] - first];
      dense = dense && !mark;
      mark = true;
    }
  }
  alignas(64) T block[kTaps + L][L];  // [tap][lane]
  if (dense) {
    for (int64_t t = taps; t < taps + L; ++t) store<T>(block[t], Vector<T>{});
  }
  for (int64_t i = 0; i < a.vectors; ++i) {
    const T* sums = a.sums + i * a.sums_row;
    Stored* target = static_cast<Stored*>(a.target) + i * a.target_row;
    for (int s = 0; s < a.set_count; ++s) {
      const TapSet& set = a.sets[s];
      with_power(set.terms, [&](auto terms) {
        Vector<T> w[terms()];
        unfold_set<T, terms()>(a, set, sums, w);
        for (int e = 0; e < terms(); ++e) {
          const int64_t tap = set.tap[0][e];
          if (dense) {
            store<T>(block[tap - first], w[e]);
          } else if (a.lane_stride == 1) {
            store_as<T>(target + tap, w[e], a.lanes);
          } else {
            T lanes[L];
            store<T>(lanes, w[e]);
            for (int l = 0; l < a.lanes; ++l) target[l * a.lane_stride + tap] = narrow<T, Stored>(lanes[l]);
          }
        }
      });
    }
    if (!dense) continue;
    for (int64_t t = 0; t < taps; t += L) {
      Vector<T> rows[L];
      load_transposed<T>([&](int r) { return block[t + r]; }, rows);
      const int count = elements_at<T>(t, taps);
      Stored* to = target + first + t;
      for (int l = 0; l < a.lanes; ++l, to += a.lane_stride) store_as<T>(to, rows[l], count);
    }
  }
}

template <typename T>
void unfold_weight(DType dtype, const UnfoldArguments<T>& a) {
  with_storage<T>(dtype, [&](auto s) { unfold_weight_typed<T, decltype(s)>(a); });
}

}  // namespace
}  // namespace symconv::cpu
