// The kernels of a matrix unit against loops written from the contract in kernels.h.
#include <algorithm>

#include "checks.h"
#include "guarded.h"

namespace symconv::test {
namespace {

// Whole numbers of so many bits that every sum of products is exact in float32, though not in its parts
// alone: one side has numbers of all three parts and the other few that are not zero, or both have two parts.
struct Numbers {
  int64_t a_most, b_most;
  double a_share, b_share;  // that are not zero
};

Numbers random_numbers(Random& random) {
  constexpr int64_t kThreeParts = (1 << 20) - 1, kTwoParts = (1 << 10) - 1;
  switch (random.between(0, 2)) {
    case 0:
      return {1, kThreeParts, 0.05, 1};
    case 1:
      return {kThreeParts, 1, 1, 0.05};
    default:
      return {kTwoParts, kTwoParts, 0.2, 0.2};
  }
}

float draw(Random& random, int64_t most, double share) {
  return random.chance(share) ? static_cast<float>(random.between(-most, most)) : 0.0f;
}

}  // namespace

void check_matrix(const Kernels<float>& kernels, Random& random, Report& report) {
  const MatrixKernels<float>& unit = *kernels.matrix;
  const int vectors = static_cast<int>(random.between(1, unit.vectors)), points = vectors * kTileRows;
  const int calls = static_cast<int>(random.between(1, 4));
  // B: runs of k, each of them folded rows that are split tile by tile; the first tiles of a run are whole.
  const int runs = static_cast<int>(random.between(1, 3));
  const Numbers numbers = random_numbers(random);
  const bool accumulate = random.chance(0.5), by_rows = random.chance(0.5);
  const int64_t b_row = vectors * kTileElements<float> + 16 * random.between(0, 2),
                interval = random.between(1, 90);
  for (const Side side : {Side::kBegin, Side::kEnd}) {
    report.begin("matrix %d vectors, %d calls, %d runs, b_row %ld interval %ld %s", vectors, calls, runs,
                 static_cast<long>(b_row), static_cast<long>(interval), accumulate ? "accumulates" : "sets");
    MatrixWork<float> nothing{};
    std::vector<Guarded<float>> tiles;
    std::vector<Segment<float>> segments;
    std::vector<std::vector<float>> b;  // of each run, [k][point], in whole tiles
    int64_t depth = 0;
    for (int r = 0; r < runs; ++r) {
      const int64_t k = random.between(1, 70), count = (k + kTileDepth - 1) / kTileDepth;
      const int64_t row = points + random.between(0, 5);
      const Guarded<float> rows((k - 1) * row + points, side);
      b.emplace_back(count * kTileDepth * points);
      for (int64_t i = 0; i < k; ++i) {
        for (int j = 0; j < points; ++j) {
          rows[i * row + j] = b[r][i * points + j] = draw(random, numbers.b_most, numbers.b_share);
        }
      }
      tiles.emplace_back((count - 1) * b_row + vectors * kTileElements<float>, Side::kBegin);
      for (int64_t t = 0; t < count; ++t) {
        unit.split_points(static_cast<int>(std::min<int64_t>(kTileDepth, k - t * kTileDepth)), vectors,
                          rows.data() + t * kTileDepth * row, row, tiles[r].data() + t * b_row, nothing);
      }
      segments.push_back({tiles[r].data(), count});
      depth += count;
    }
    // A, and what is expected of C.
    std::vector<Guarded<float>> packed;
    std::vector<MatrixCall<float>> work;
    std::vector<int64_t> first;
    const int64_t c_row = points + random.between(0, 5);
    Expected<float> expected(calls * kTileRows * c_row);
    const Guarded<float> c(expected.size(), side);
    for (int64_t i = 0; i < expected.size() && accumulate; ++i) expected[i] = random.number<float>();
    expected.prepare(c);
    for (int n = 0; n < calls; ++n) {
      const int m = static_cast<int>(random.between(1, kTileRows)),
                used = static_cast<int>(random.between(1, runs));
      packed.emplace_back(depth * kTileElements<float>, Side::kBegin);
      int64_t before = 0;
      std::vector<double> sums(m * points);
      for (int r = 0; r < used; ++r) {
        const int64_t k = segments[r].k * kTileDepth - random.between(0, 3);
        const int64_t step = (by_rows ? k : m) + random.between(0, 3);
        const int64_t a_row = by_rows ? step : 1, a_col = by_rows ? 1 : step;
        const Guarded<float> a((m - 1) * a_row + (k - 1) * a_col + 1, side);
        for (int i = 0; i < m; ++i) {
          for (int64_t j = 0; j < k; ++j) {
            const float x = a[i * a_row + j * a_col] = draw(random, numbers.a_most, numbers.a_share);
            for (int p = 0; p < points; ++p) sums[i * points + p] += double{x} * b[r][j * points + p];
          }
        }
        unit.split_rows(m, k, a.data(), a_row, a_col, packed[n].data() + before * kTileElements<float>);
        before += segments[r].k;
      }
      float* const target = c.data() + n * kTileRows * c_row;
      work.push_back({m, vectors, packed[n].data(), segments.data(), used, target, accumulate});
      for (int i = 0; i < m; ++i) {
        for (int p = 0; p < points; ++p) {
          const int64_t at = (n * kTileRows + i) * c_row + p;
          expected.require(at, static_cast<float>(sums[i * points + p] + (accumulate ? expected[at] : 0.0f)));
        }
      }
    }
    // Some of it while other rows are split, the rest afterwards.
    const auto* memory = reinterpret_cast<const char*>(c.data());
    const LineRun runs[] = {{memory, 2}, {memory, 1000}};
    Lines lines{runs, memory, 2};
    MatrixWork<float> w{};
    w.call = work.data();
    w.end = work.data() + work.size();
    w.b_row = b_row;
    w.c_row = c_row;
    w.lines = &lines;
    w.line_count = random.one_of({0, 1, 50});
    w.interval = interval;
    unit.begin();
    std::vector<float> other(kTileDepth * points, 1.0f);
    const Guarded<float> others(vectors * kTileElements<float>, Side::kBegin);
    for (int64_t i = random.between(0, 6); i > 0; --i) {
      unit.split_points(kTileDepth, vectors, other.data(), points, others.data(), w);
    }
    unit.finish(w);
    unit.end();
    report.check(w.call == w.end && w.line_count == 0, "something is left");
    const int64_t at = expected.difference(c);
    report.check(at < 0, "row %ld, point %ld differs", static_cast<long>(at / c_row),
                 static_cast<long>(at % c_row));
  }
}

}  // namespace symconv::test
