// gemm, fold and fold_weight against loops written from the contract in kernels.h.
#include <algorithm>
#include <numeric>

#include "checks.h"
#include "guarded.h"
#include "problems.h"

namespace symconv::test {
template <typename T>
void check_gemm(const Kernels<T>& kernels, Random& random, Report& report) {
  const int m = static_cast<int>(random.between(1, kernels.rows));
  const int v = static_cast<int>(random.between(1, kernels.vectors));
  const int64_t n = static_cast<int64_t>(v) * kernels.lanes;
  const int count = static_cast<int>(random.between(0, 5));
  std::vector<int64_t> lengths;
  for (int s = 0; s < count; ++s) {
    lengths.push_back(random.chance(0.1) ? random.between(100, 300) : random.between(0, 20));
  }
  const int64_t depth = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const int64_t b_row = n + random.between(0, 5), c_row = n + random.between(0, 5);
  const bool accumulate = random.chance(0.5);
  int64_t a_row = 1, a_col = m;  // packed
  const int64_t layout = random.between(0, 3);
  if (layout == 1) a_row = depth + random.between(0, 3), a_col = 1;
  if (layout == 2) a_row = 1, a_col = m + random.between(1, 9);
  if (layout == 3) a_row = random.between(1, 9), a_col = random.between(1, 9);

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("gemm m %d v %d depth %ld in %d segments, a_row %ld a_col %ld b_row %ld c_row %ld %s", m, v,
                 static_cast<long>(depth), count, static_cast<long>(a_row), static_cast<long>(a_col),
                 static_cast<long>(b_row), static_cast<long>(c_row), accumulate ? "accumulates" : "sets");
    const Guarded<T> a(depth > 0 ? (m - 1) * a_row + (depth - 1) * a_col + 1 : 0, side);
    fill(a, random);
    std::vector<Guarded<T>> b;
    std::vector<Segment<T>> segments;
    for (const int64_t k : lengths) {
      b.emplace_back(k > 0 ? (k - 1) * b_row + n : 0, side);
      fill(b.back(), random);
      segments.push_back({b.back().data(), k});
    }
    Expected<T> expected((m - 1) * c_row + n);
    const Guarded<T> c(expected.size(), side);
    for (int i = 0; i < m && accumulate; ++i) {
      for (int64_t j = 0; j < n; ++j) expected[i * c_row + j] = random.number<T>();
    }
    expected.prepare(c);
    for (int i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        T sum = accumulate ? expected[i * c_row + j] : T(0);
        int64_t k = 0;
        for (int s = 0; s < count; ++s) {
          for (int64_t l = 0; l < lengths[s]; ++l, ++k) sum += a[i * a_row + k * a_col] * b[s][l * b_row + j];
        }
        expected.require(i * c_row + j, sum);
      }
    }
    kernels.gemm(m, v, a.data(), a_row, a_col, segments.data(), count, b_row, c.data(), c_row, accumulate,
                 {});
    const int64_t at = expected.difference(c);
    report.check(at < 0, "row %ld, column %ld differs", static_cast<long>(at / c_row),
                 static_cast<long>(at % c_row));
  }
}

// Multiplies a few times with the fold, and lines to ask for, on the side: products must not change.
template <typename T>
void fold_some_aside(const Kernels<T>& kernels, Random& random, FoldArguments<T>& fold, Report& report) {
  for (int64_t calls = random.between(0, 3); calls > 0; --calls) {
    const int m = static_cast<int>(random.chance(0.8) ? kernels.rows : random.between(1, kernels.rows));
    const int v = static_cast<int>(random.between(1, kernels.vectors));
    const int64_t n = static_cast<int64_t>(v) * kernels.lanes, depth = random.between(0, 60);
    std::vector<T> a(m * depth), b(depth * n), c(m * n), alone(m * n);
    for (T& x : a) x = random.number<T>();
    for (T& x : b) x = random.number<T>();
    const int64_t first = random.between(0, depth);
    const Segment<T> segments[] = {{b.data(), first}, {b.data() + first * n, depth - first}};
    const int asked = static_cast<int>(random.one_of({0, 1, 20, 64}));
    const auto* memory = reinterpret_cast<const char*>(a.data());
    const LineRun runs[] = {{memory, 3}, {memory, 1}, {memory, 1000}};
    Lines lines{runs, memory, 3};
    const Aside<T> aside{random.chance(0.8) ? &fold : nullptr, &lines, asked};
    const bool packed = random.chance(0.8);
    const int64_t a_row = packed ? 1 : depth, a_col = packed ? m : 1;
    kernels.gemm(m, v, a.data(), a_row, a_col, segments, 2, n, c.data(), n, false, aside);
    kernels.gemm(m, v, a.data(), a_row, a_col, segments, 2, n, alone.data(), n, false, {});
    report.check(c == alone, "products differ with a fold on the side");
    int64_t left = lines.left;
    for (const LineRun* run = lines.run + 1; run < std::end(runs); ++run) left += run->count;
    report.check(left == 1004 - asked, "%d lines are to be asked for, not %d", asked,
                 static_cast<int>(1004 - left));
  }
}

template <typename T>
void check_fold(const Kernels<T>& kernels, Random& random, Report& report) {
  const int set_count = static_cast<int>(random.between(0, 5));
  const int64_t columns = random.one_of({0, 1, 4, 17, 33}), panel = kernels.panel(),
                column = random.between(1, 200);
  std::vector<TapSet> taps;
  const int64_t coefficients = random_sets(random, set_count, 1, 60, taps);
  std::vector<PlaneSet> sets;
  int tap_count = 0;
  for (const TapSet& of : taps) {
    PlaneSet set{};
    set.terms = of.terms;
    set.shared = random.chance(0.5);
    for (int e = 0; e < set.terms; ++e) {
      set.plane[e] = set.shared && e > 0 ? set.plane[0] : random.between(0, 90);
      set.tap[e] = of.tap[0][e];
      set.coefficient[e] = of.coefficient[e];
      set.mask[e] = tap_count++;
    }
    sets.push_back(set);
  }
  // Either a panel of whole vectors side by side, as in the middle of an image, or moves of any kind.
  std::vector<Move> moves;
  if (random.chance(0.4)) {
    const int64_t source = random.between(0, 100), step = random.one_of({kernels.lanes, kernels.lanes + 3});
    for (int i = 0; i < kernels.vectors; ++i) {
      moves.push_back({static_cast<int32_t>(source + i * step), i * kernels.lanes, kernels.lanes});
    }
  } else {
    for (int64_t i = random.between(0, 6); i > 0; --i) {
      const int64_t count = random.chance(0.5) ? kernels.lanes : random.between(1, kernels.lanes);
      moves.push_back({static_cast<int32_t>(random.between(0, 100)),
                       static_cast<int32_t>(random.between(0, panel - count)), static_cast<int32_t>(count)});
    }
  }
  // Where masks keep the others from being read, only what they let through is there.
  const bool masked = random.chance(0.6);
  const int64_t mask_row = tap_count + random.between(0, 3);
  std::vector<uint32_t> masks(moves.size() * mask_row);
  for (uint32_t& mask : masks) {
    mask = static_cast<uint32_t>(random.chance(0.4) ? ~0u >> (32 - kernels.lanes)
                                                    : random.between(0, (1 << kernels.lanes) - 1));
  }
  const auto in = [&](size_t move, int tap, int lane) {
    return !masked || masks[move * mask_row + tap] >> lane & 1;
  };
  int64_t size = 0, row_size = 0;
  for (size_t m = 0; m < moves.size(); ++m) {
    row_size = std::max<int64_t>(row_size, moves[m].target + moves[m].count);
    for (const PlaneSet& set : sets) {
      for (int q = 0; q < set.terms; ++q) {
        for (int e = 0; e < set.terms; ++e) {
          int lanes = kernels.lanes;  // up to the last one that is read
          while (kernels.masked_reads && lanes > 0 && !in(m, set.mask[e], lanes - 1)) --lanes;
          if (columns == 0 || lanes == 0) continue;
          size = std::max(size, (columns - 1) * column + set.plane[q] + set.tap[e] + moves[m].source + lanes);
        }
      }
    }
  }
  const int64_t folded_row = panel + random.between(0, 5), rows = coefficients * columns;

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("fold %d sets, %ld columns %ld apart, %d moves%s, folded_row %ld", set_count,
                 static_cast<long>(columns), static_cast<long>(column), static_cast<int>(moves.size()),
                 masked ? ", masked" : "", static_cast<long>(folded_row));
    const Guarded<T> planes(size, side);
    fill(planes, random);
    Expected<T> expected(rows > 0 && row_size > 0 ? (rows - 1) * folded_row + row_size : 0);
    const Guarded<T> folded(expected.size(), side);
    expected.prepare(folded);
    for (const PlaneSet& set : sets) {
      for (int64_t j = 0; j < columns; ++j) {
        for (size_t m = 0; m < moves.size(); ++m) {
          for (int i = 0; i < moves[m].count; ++i) {
            for (int q = 0; q < set.terms; ++q) {
              T sum = 0;
              for (int e = 0; e < set.terms; ++e) {
                if (!in(m, set.mask[e], i)) continue;
                sum += static_cast<T>(sign(q, e)) *
                       planes[j * column + set.plane[q] + set.tap[e] + moves[m].source + i];
              }
              expected.require((set.coefficient[q] * columns + j) * folded_row + moves[m].target + i, sum);
            }
          }
        }
      }
    }
    FoldArguments<T> arguments{sets.data(),
                               set_count,
                               columns,
                               planes.data(),
                               column,
                               moves.data(),
                               static_cast<int>(moves.size()),
                               masked ? masks.data() : nullptr,
                               mask_row,
                               folded.data(),
                               folded_row,
                               {}};
    fold_some_aside(kernels, random, arguments, report);
    kernels.fold(arguments);
    const int64_t at = expected.difference(folded);
    report.check(at < 0, "row %ld, point %ld differs", static_cast<long>(at / folded_row),
                 static_cast<long>(at % folded_row));
  }
}

template <typename T, typename Stored>
void check_fold_weight(const Kernels<T>& kernels, Random& random, Report& report) {
  const int rows = static_cast<int>(random.chance(0.5) ? kernels.rows : random.between(1, kernels.rows));
  const int set_count = static_cast<int>(random.between(0, 5));
  const int64_t columns = random.one_of({0, 1, 3, 8, 16, 37});
  const int64_t taps = random.one_of({1, 4, 9, 27});
  std::vector<TapSet> sets;
  const int64_t coefficients = random_sets(random, set_count, 1, taps - 1, sets);
  // Strides of (row, column, tap): taps last, channels last, rows last, or any.
  int64_t row_stride = columns * taps, column_stride = taps, tap_stride = 1;
  const int64_t layout = random.between(0, 3);
  if (layout == 1) column_stride = 1, tap_stride = std::max<int64_t>(1, columns);
  if (layout == 2) row_stride = taps, column_stride = rows * taps;
  if (layout == 3) row_stride = random.between(0, 9), column_stride = random.between(0, 9), tap_stride = 2;
  int64_t source_size = 0;
  for (TapSet& set : sets) {
    for (int e = 0; e < set.terms; ++e) {
      set.tap[0][e] *= tap_stride;
      if (columns == 0) continue;
      source_size =
          std::max(source_size, set.tap[0][e] + (rows - 1) * row_stride + (columns - 1) * column_stride + 1);
    }
  }
  const int64_t coefficient_stride = std::max<int64_t>(1, columns * rows + random.between(0, 5));

  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("fold_weight %d sets, %d rows %ld apart, %ld columns %ld apart, taps %ld apart", set_count,
                 rows, static_cast<long>(row_stride), static_cast<long>(columns),
                 static_cast<long>(column_stride), static_cast<long>(tap_stride));
    const Guarded<Stored> source(source_size, side);
    fill(source, random);
    Expected<T> expected(coefficients * columns > 0 ? (coefficients - 1) * coefficient_stride + columns * rows
                                                    : 0);
    const Guarded<T> target(expected.size(), side);
    expected.prepare(target);
    for (const TapSet& set : sets) {
      for (int64_t j = 0; j < columns; ++j) {
        for (int r = 0; r < rows; ++r) {
          for (int q = 0; q < set.terms; ++q) {
            T sum = 0;
            for (int e = 0; e < set.terms; ++e) {
              sum += static_cast<T>(sign(q, e)) *
                     static_cast<T>(source[r * row_stride + j * column_stride + set.tap[0][e]]);
            }
            expected.require(set.coefficient[q] * coefficient_stride + j * rows + r,
                             sum / static_cast<T>(set.terms));
          }
        }
      }
    }
    kernels.fold_weight(kDType<Stored>, sets.data(), set_count, source.data(), row_stride, rows,
                        column_stride, columns, target.data(), coefficient_stride);
    const int64_t at = expected.difference(target);
    report.check(at < 0, "coefficient %ld, element %ld differs", static_cast<long>(at / coefficient_stride),
                 static_cast<long>(at % coefficient_stride));
  }
}

#define SYMCONV_INSTANTIATE(T, Stored) \
  template void check_fold_weight<T, Stored>(const Kernels<T>&, Random&, Report&);
SYMCONV_INSTANTIATE(float, float)
SYMCONV_INSTANTIATE(float, Float16)
SYMCONV_INSTANTIATE(float, BFloat16)
SYMCONV_INSTANTIATE(double, double)
template void check_gemm<float>(const Kernels<float>&, Random&, Report&);
template void check_gemm<double>(const Kernels<double>&, Random&, Report&);
template void check_fold<float>(const Kernels<float>&, Random&, Report&);
template void check_fold<double>(const Kernels<double>&, Random&, Report&);

}  // namespace symconv::test
