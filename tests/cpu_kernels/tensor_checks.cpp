// What lies between the GEMM and the tensors: stage, add_rows and epilogue, against loops written from the
// contract in kernels.h.
#include <algorithm>

#include "checks.h"
#include "guarded.h"
#include "problems.h"

namespace symconv::test {
template <typename T, typename Stored>
void check_stage(const Kernels<T>& kernels, Random& random, Report& report) {
  const int64_t columns = random.between(0, 40), n = random.between(0, 3 * kernels.lanes + 5);
  const Strides strides = random_strides(random, columns, n, true);
  const bool exact = strides.channel != 1 || strides.point == 1;
  const int64_t plane = std::max<int64_t>(1, n + (exact ? 0 : kernels.lanes) + random.between(0, 9));

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("stage %ld columns %ld apart, %ld points %ld apart, plane %ld", static_cast<long>(columns),
                 static_cast<long>(strides.channel), static_cast<long>(n), static_cast<long>(strides.point),
                 static_cast<long>(plane));
    const Guarded<Stored> source(extent(strides, columns, n), side);
    fill(source, random);
    Expected<T> expected(columns > 0 ? (columns - 1) * plane + n + (exact ? 0 : kernels.lanes) : 0);
    const Guarded<T> target(expected.size(), side);
    expected.prepare(target);
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < n; ++i) {
        expected.require(j * plane + i, static_cast<T>(source[j * strides.channel + i * strides.point]));
      }
      for (int64_t i = n; i < n + kernels.lanes && !exact; ++i) expected.allow_rubbish(j * plane + i);
    }
    kernels.stage(kDType<Stored>, source.data(), strides.channel, strides.point, columns, n, target.data(),
                  plane);
    const int64_t at = expected.difference(target);
    report.check(at < 0, "plane %ld, element %ld differs", static_cast<long>(at / plane),
                 static_cast<long>(at % plane));
  }
}

template <typename T, typename Stored>
void check_stage_rows(const Kernels<T>& kernels, Random& random, Report& report) {
  std::vector<StagedRun> runs;
  int64_t position = random.between(0, 9), source_size = 0;
  for (int64_t r = random.between(0, 8); r > 0; --r) {
    const int64_t count = random.between(0, random.chance(0.2) ? 200 : 3 * kernels.lanes);
    int64_t low = random.between(0, count), high = random.between(low, count);
    if (random.chance(0.3)) low = 0;
    if (random.chance(0.3)) high = count;
    const int64_t from = random.between(0, 20);
    runs.push_back({position, low, high, count, from});
    source_size = std::max(source_size, from + high - low);
    position += count;
  }

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("stage_rows of %ld runs", static_cast<long>(runs.size()));
    const Guarded<Stored> source(source_size, side);
    fill(source, random);
    Expected<T> expected(position + kernels.lanes);
    const Guarded<T> target(expected.size(), side);
    expected.prepare(target);
    for (const StagedRun& run : runs) {
      for (int64_t i = 0; i < run.count; ++i) {
        const bool inside = i >= run.low && i < run.high;
        expected.require(run.position + i, inside ? static_cast<T>(source[run.source + i - run.low]) : T(0));
      }
    }
    for (int i = 0; i < kernels.lanes && !runs.empty(); ++i) expected.allow_rubbish(position + i);
    kernels.stage_rows(kDType<Stored>, source.data(), runs.data(), static_cast<int64_t>(runs.size()),
                       target.data());
    const int64_t at = expected.difference(target);
    report.check(at < 0, "element %ld differs", static_cast<long>(at));
  }
}

template <typename T>
void check_add_rows(const Kernels<T>& kernels, Random& random, Report& report) {
  const int count = static_cast<int>(random.between(0, 7));
  const int64_t n = random.between(0, 4 * kernels.lanes), past = kernels.lanes;

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("add_rows %d rows of %ld", count, static_cast<long>(n));
    std::vector<Guarded<T>> rows;
    std::vector<SignedRow<T>> arguments;
    for (int j = 0; j < count; ++j) {
      rows.emplace_back(n + past, side);
      fill(rows.back(), random);
      arguments.push_back({rows.back().data(), random.chance(0.5) ? T(1) : T(-1)});
    }
    Expected<T> expected(n + past);
    const Guarded<T> out(expected.size(), side);
    expected.prepare(out);
    for (int64_t i = 0; i < n; ++i) {
      T sum = 0;
      for (int j = 0; j < count; ++j) sum += arguments[j].sign * rows[j][i];
      expected.require(i, sum);
    }
    for (int64_t i = n; i < n + past; ++i) expected.allow_rubbish(i);
    kernels.add_rows(arguments.data(), count, n, out.data());
    const int64_t at = expected.difference(out);
    report.check(at < 0, "element %ld differs", static_cast<long>(at));
  }
}

template <typename T, typename Stored>
void check_epilogue(const Kernels<T>& kernels, Random& random, Report& report) {
  const int slots = static_cast<int>(random.one_of({1, 2, 4, 8}));
  const int64_t orbits = random.between(0, 40), points = random.between(0, 3 * kernels.panel());
  const Strides strides = random_strides(random, orbits, points, false);
  // Slots are rows, or sums of rows anywhere in front of and behind that of the accumulators.
  const bool sums = random.chance(0.5);
  const int64_t least = sums ? random.between(0, 2) : 1, before = sums ? random.between(0, 300) : 0;
  const int64_t row = points + random.between(0, 9), slot = orbits * row + random.between(0, 9);
  std::vector<SlotTerm<T>> terms;
  terms.reserve(1);  // not null without any
  std::vector<std::vector<SlotTerm<T>>> of_slot(slots);
  int64_t last = 0;  // offset
  for (int q = 0; q < slots; ++q) {
    for (int64_t n = sums ? random.between(least, least + 3) : 1; n > 0; --n) {
      SlotTerm<T> term{q * slot, T(1)};
      if (sums) term = {random.between(-before, slots * slot), random.chance(0.5) ? T(1) : T(-1)};
      of_slot[q].push_back(term);
      terms.push_back(term);
      last = std::max(last, term.offset);
    }
  }
  bool biased[kMaxTerms];
  for (bool& b : biased) b = random.chance(0.5);

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("epilogue %d slots of %s, %ld orbits %ld apart, %ld points %ld apart, row %ld, slot %ld",
                 slots, sums ? "sums" : "rows", static_cast<long>(orbits), static_cast<long>(strides.channel),
                 static_cast<long>(points), static_cast<long>(strides.point), static_cast<long>(row),
                 static_cast<long>(slot));
    const int64_t used = orbits > 0 && points > 0 ? last + (orbits - 1) * row + points : 0;
    const Guarded<T> accumulators(before + used + (sums ? kernels.lanes : 0), side);
    fill(accumulators, random);
    EpilogueArguments<T> a{};
    a.slots = slots;
    a.orbits = orbits;
    a.accumulators = accumulators.data() + before;
    a.row = row;
    a.slot = slot;
    a.terms = sums ? terms.data() : nullptr;
    for (int q = 0; q < slots; ++q) a.term_count[q] = static_cast<int>(of_slot[q].size());
    a.points = points;
    a.orbit_stride = strides.channel;
    a.point_stride = strides.point;
    std::vector<Guarded<T>> biases;
    std::vector<Guarded<Stored>> outputs;
    std::vector<Expected<Stored>> expected;
    for (int e = 0; e < slots; ++e) {
      biases.emplace_back(orbits, side);
      fill(biases.back(), random);
      a.bias[e] = biased[e] ? biases.back().data() : nullptr;
      expected.emplace_back(extent(strides, orbits, points));
      outputs.emplace_back(expected.back().size(), side);
      expected.back().prepare(outputs.back());
      a.output[e] = outputs.back().data();
      for (int64_t o = 0; o < orbits; ++o) {
        for (int64_t i = 0; i < points; ++i) {
          T sum = biased[e] ? biases.back()[o] : T(0);
          for (int q = 0; q < slots; ++q) {
            for (const SlotTerm<T>& term : of_slot[q]) {
              sum +=
                  static_cast<T>(sign(q, e)) * term.sign * accumulators[before + term.offset + o * row + i];
            }
          }
          expected.back().require(o * strides.channel + i * strides.point, Stored(sum));
        }
      }
    }
    kernels.epilogue(kDType<Stored>, a);
    for (int e = 0; e < slots; ++e) {
      const int64_t at = expected[e].difference(outputs[e]);
      report.check(at < 0, "output %d differs at %ld", e, static_cast<long>(at));
    }
  }
}

#define SYMCONV_INSTANTIATE(T, Stored)                                            \
  template void check_stage<T, Stored>(const Kernels<T>&, Random&, Report&);      \
  template void check_stage_rows<T, Stored>(const Kernels<T>&, Random&, Report&); \
  template void check_epilogue<T, Stored>(const Kernels<T>&, Random&, Report&);
SYMCONV_INSTANTIATE(float, float)
SYMCONV_INSTANTIATE(float, Float16)
SYMCONV_INSTANTIATE(float, BFloat16)
SYMCONV_INSTANTIATE(double, double)
template void check_add_rows<float>(const Kernels<float>&, Random&, Report&);
template void check_add_rows<double>(const Kernels<double>&, Random&, Report&);

}  // namespace symconv::test
