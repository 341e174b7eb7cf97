// slots, fold_points and unfold_weight, which only wgrad uses, against loops written from the contract in
// kernels.h.
#include <algorithm>

#include "checks.h"
#include "guarded.h"
#include "problems.h"

namespace symconv::test {
namespace {

// Up to four runs of points, one after the other in the target with gaps between them, anywhere in a source
// of `points` points that lie `point_stride` apart.
std::vector<PointRun> random_runs(Random& random, int64_t points, int64_t point_stride) {
  std::vector<PointRun> runs;
  int64_t target = random.between(0, 3);
  for (int64_t i = random.between(0, 4); i > 0; --i) {
    const int64_t count = random.between(0, points);
    runs.push_back({random.between(0, points - count) * point_stride, target, count});
    target += count + random.between(0, 3);
  }
  return runs;
}

int64_t targets(const std::vector<PointRun>& runs) {
  int64_t n = 0;
  for (const PointRun& run : runs) n = std::max(n, run.count > 0 ? run.target + run.count : 0);
  return n;
}

}  // namespace

template <typename T, typename Stored>
void check_slots(const Kernels<T>& kernels, Random& random, Report& report) {
  SlotsArguments<T> a{};
  a.slots = static_cast<int>(random.one_of({1, 2, 4, 8}));
  a.classes = static_cast<int>(random.between(a.slots, kMaxOrbit));
  for (int c = 0; c < a.classes; ++c) {
    a.slot_of[c] = c < a.slots ? c : static_cast<int>(random.between(0, a.slots - 1));
    std::swap(a.slot_of[c], a.slot_of[random.between(0, c)]);
  }
  a.orbits = random.between(0, 40);
  const int64_t points = random.between(0, 3 * kernels.lanes + 5);
  const Strides strides = random_strides(random, a.orbits, points, true);
  a.orbit_stride = strides.channel;
  a.point_stride = strides.point;
  const std::vector<PointRun> runs = random_runs(random, points, strides.point);
  a.runs = runs.data();
  a.run_count = static_cast<int>(runs.size());
  const int64_t rows = targets(runs);
  const bool planar = random.chance(0.5);
  a.point_step = planar ? 1 : a.orbits + random.between(2, 9);
  a.orbit_step = planar ? rows + random.between(2, 9) : 1;
  a.class_step =
      std::max<int64_t>(1, planar ? a.orbits * a.orbit_step : rows * a.point_step) + random.between(0, 9);

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("slots %d to %d classes, %ld orbits %ld apart, %ld points %ld apart in %d runs, %s", a.slots,
                 a.classes, static_cast<long>(a.orbits), static_cast<long>(a.orbit_stride),
                 static_cast<long>(points), static_cast<long>(a.point_stride), a.run_count,
                 planar ? "to planes" : "to points");
    std::vector<Guarded<Stored>> sources;
    for (int e = 0; e < a.slots; ++e) {
      sources.emplace_back(extent(strides, a.orbits, points), side);
      fill(sources.back(), random);
      a.source[e] = sources.back().data();
    }
    Expected<T> expected(a.orbits > 0 && rows > 0
                             ? (a.classes - 1) * a.class_step + (a.orbits - 1) * a.orbit_step +
                                   (rows - 1) * a.point_step + 1
                             : 0);
    const Guarded<T> target(expected.size(), side);
    expected.prepare(target);
    a.target = target.data();
    for (const PointRun& run : runs) {
      for (int64_t i = 0; i < run.count; ++i) {
        for (int64_t o = 0; o < a.orbits; ++o) {
          for (int c = 0; c < a.classes; ++c) {
            T sum = 0;
            for (int e = 0; e < a.slots; ++e) {
              sum += static_cast<T>(sign(a.slot_of[c], e)) *
                     static_cast<T>(sources[e][o * strides.channel + run.source + i * strides.point]);
            }
            expected.require(c * a.class_step + o * a.orbit_step + (run.target + i) * a.point_step, sum);
          }
        }
      }
    }
    kernels.slots(kDType<Stored>, a);
    const int64_t at = expected.difference(target);
    report.check(at < 0, "class %ld, element %ld differs", static_cast<long>(at / a.class_step),
                 static_cast<long>(at % a.class_step));
  }
}

template <typename T>
void check_fold_points(const Kernels<T>& kernels, Random& random, Report& report) {
  const int64_t lanes = kernels.lanes;
  PointFoldArguments<T> a{};
  a.copies = static_cast<int>(random.one_of({1, 2, 4, 8}));
  a.set_count = static_cast<int>(random.between(0, 5));
  a.plane = random.between(1, 50) * lanes;
  std::vector<TapSet> sets;
  const int64_t coefficients = random_sets(random, a.set_count, a.copies, 12, sets);
  a.sets = sets.data();
  const std::vector<PointRun> runs = random_runs(random, 20, 1);
  a.runs = runs.data();
  a.run_count = static_cast<int>(runs.size());
  a.step = lanes + random.between(0, 5);
  a.point_row = std::max<int64_t>(1, coefficients * a.step) + random.between(0, 5);
  const auto source = [&](const TapSet& set, int c, int e, int64_t point) {
    return c * a.plane + (set.tap[c][e] + point) * lanes;
  };
  int64_t staged_size = 0;
  for (const PointRun& run : runs) {
    for (const TapSet& set : sets) {
      for (int c = 0; c < a.copies && run.count > 0; ++c) {
        for (int e = 0; e < set.terms; ++e) {
          staged_size = std::max(staged_size, source(set, c, e, run.source + run.count - 1) + lanes);
        }
      }
    }
  }

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("fold_points %d sets, %d copies, plane %ld, %d runs, point_row %ld, step %ld", a.set_count,
                 a.copies, static_cast<long>(a.plane), a.run_count, static_cast<long>(a.point_row),
                 static_cast<long>(a.step));
    const Guarded<T> staged(staged_size, side);
    fill(staged, random);
    const int64_t points = targets(runs);
    Expected<T> expected(points > 0 && coefficients > 0
                             ? (points - 1) * a.point_row + (coefficients - 1) * a.step + lanes
                             : 0);
    const Guarded<T> folded(expected.size(), side);
    expected.prepare(folded);
    for (const PointRun& run : runs) {
      for (int64_t i = 0; i < run.count; ++i) {
        for (const TapSet& set : sets) {
          for (int q = 0; q < set.terms; ++q) {
            for (int64_t l = 0; l < lanes; ++l) {
              T sum = 0;
              for (int e = 0; e < set.terms; ++e) {
                for (int c = 0; c < a.copies; ++c) {
                  sum += static_cast<T>(sign(q, e)) * staged[source(set, c, e, run.source + i) + l];
                }
              }
              expected.require((run.target + i) * a.point_row + set.coefficient[q] * a.step + l, sum);
            }
          }
        }
      }
    }
    a.staged = staged.data();
    a.folded = folded.data();
    kernels.fold_points(a);
    const int64_t at = expected.difference(folded);
    report.check(at < 0, "point %ld, element %ld differs", static_cast<long>(at / a.point_row),
                 static_cast<long>(at % a.point_row));
  }
}

template <typename T, typename Stored>
void check_unfold_weight(const Kernels<T>& kernels, Random& random, Report& report) {
  UnfoldArguments<T> a{};
  a.set_count = static_cast<int>(random.between(0, 5));
  std::vector<TapSet> sets;
  const int64_t coefficients = random_sets(random, a.set_count, 1, 0, sets);
  a.vectors = random.between(0, 5);
  a.lanes = static_cast<int>(random.between(1, kernels.lanes));
  a.shares = random.between(1, 3);
  a.step = a.lanes + random.between(0, 5);
  a.sums_row = std::max<int64_t>(1, coefficients) * a.step + random.between(0, 5);
  a.share = std::max<int64_t>(1, a.vectors) * a.sums_row + random.between(0, 5);
  // Each tap once: next to each other or with steps, before the lanes, after them or between their vectors.
  const int64_t layout = random.between(0, 3), gap = random.chance(0.5) ? 0 : random.between(1, 5);
  const int64_t taps = std::max<int64_t>(1, coefficients);
  int64_t tap_stride = 1;
  a.lane_stride = taps + gap;
  a.target_row = kernels.lanes * a.lane_stride;
  if (layout == 1) a.target_row = taps + gap, a.lane_stride = std::max<int64_t>(1, a.vectors) * a.target_row;
  if (layout == 2) a.lane_stride = 1, tap_stride = kernels.lanes + gap, a.target_row = taps * tap_stride;
  if (layout == 3) tap_stride = 2, a.lane_stride *= 2, a.target_row *= 2;
  std::vector<int64_t> order(coefficients);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = coefficients - 1; i > 0; --i) std::swap(order[i], order[random.between(0, i)]);
  const int64_t first = random.between(0, 3);
  int64_t next = 0;
  for (TapSet& set : sets) {
    for (int e = 0; e < set.terms; ++e) set.tap[0][e] = first + order[next++] * tap_stride;
  }
  a.sets = sets.data();

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("unfold_weight %d sets, %ld vectors of %d lanes %ld apart, taps %ld apart, %ld shares",
                 a.set_count, static_cast<long>(a.vectors), a.lanes, static_cast<long>(a.lane_stride),
                 static_cast<long>(tap_stride), static_cast<long>(a.shares));
    const bool empty = a.vectors == 0 || coefficients == 0;
    const Guarded<T> sums(empty ? 0
                                : (a.shares - 1) * a.share + (a.vectors - 1) * a.sums_row +
                                      (coefficients - 1) * a.step + a.lanes,
                          side);
    fill(sums, random);
    Expected<Stored> expected(empty ? 0
                                    : (a.vectors - 1) * a.target_row + (a.lanes - 1) * a.lane_stride + first +
                                          (coefficients - 1) * tap_stride + 1);
    const Guarded<Stored> target(expected.size(), side);
    expected.prepare(target);
    for (int64_t i = 0; i < a.vectors; ++i) {
      for (int l = 0; l < a.lanes; ++l) {
        for (const TapSet& set : sets) {
          for (int e = 0; e < set.terms; ++e) {
            T sum = 0;
            for (int q = 0; q < set.terms; ++q) {
              for (int64_t s = 0; s < a.shares; ++s) {
                sum += static_cast<T>(sign(q, e)) *
                       sums[s * a.share + i * a.sums_row + set.coefficient[q] * a.step + l];
              }
            }
            expected.require(i * a.target_row + l * a.lane_stride + set.tap[0][e],
                             Stored(sum / static_cast<T>(set.terms)));
          }
        }
      }
    }
    a.sums = sums.data();
    a.target = target.data();
    kernels.unfold_weight(kDType<Stored>, a);
    const int64_t at = expected.difference(target);
    report.check(at < 0, "vector %ld, element %ld differs", static_cast<long>(at / a.target_row),
                 static_cast<long>(at % a.target_row));
  }
}

#define SYMCONV_INSTANTIATE(T, Stored)                                       \
  template void check_slots<T, Stored>(const Kernels<T>&, Random&, Report&); \
  template void check_unfold_weight<T, Stored>(const Kernels<T>&, Random&, Report&);
SYMCONV_INSTANTIATE(float, float)
SYMCONV_INSTANTIATE(float, Float16)
SYMCONV_INSTANTIATE(float, BFloat16)
SYMCONV_INSTANTIATE(double, double)
template void check_fold_points<float>(const Kernels<float>&, Random&, Report&);
template void check_fold_points<double>(const Kernels<double>&, Random&, Report&);

}  // namespace symconv::test
