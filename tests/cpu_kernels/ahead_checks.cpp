// The lines that are asked for ahead, against a loop over the bytes of their ranges.
#include <set>

#include "../../csrc/cpu/ahead.h"
#include "checks.h"

namespace symconv::test {

void check_ahead(Random& random, Report& report) {
  const int64_t ranges = random.between(0, 4), planes = random.between(0, 6), calls = random.between(0, 30);
  report.begin("ahead: %ld ranges of %ld planes in %ld calls", static_cast<long>(ranges),
               static_cast<long>(planes), static_cast<long>(calls));
  Ahead ahead;
  ahead.add_range(5, 999);  // to be forgotten
  ahead.add_plane(&ahead);
  ahead.clear();
  std::vector<int64_t> bytes;  // of a plane
  int64_t end = 0;
  for (int64_t i = 0; i < ranges; ++i) {
    const int64_t first = end + random.one_of({0, 1, 65, 300, 5000}), count = random.between(1, 700);
    ahead.add_range(first, count);
    // What lies between ranges that nearly meet is asked for, too.
    for (int64_t b = i > 0 && first <= end + 64 ? end : first; b < first + count; ++b) bytes.push_back(b);
    end = first + count;
  }
  std::set<uintptr_t> expected;
  uintptr_t base = static_cast<uintptr_t>(random.between(1 << 20, 1 << 21));
  for (int64_t p = 0; p < planes; ++p) {
    ahead.add_plane(reinterpret_cast<const void*>(base));
    for (const int64_t b : bytes) expected.insert((base + b) / 64);
    base += static_cast<uintptr_t>(end + random.one_of({0, 3, 64, 10000}));
  }
  ahead.spread(calls);
  std::set<uintptr_t> given;
  int64_t count = 0, most = 0;
  const void* lines[Ahead::kMostLines];
  while (const int n = ahead.take(lines)) {
    for (int i = 0; i < n; ++i) given.insert(reinterpret_cast<uintptr_t>(lines[i]) / 64);
    count += n;
    most = std::max<int64_t>(most, n);
  }
  report.check(given == expected, "%zu lines are given, %zu expected", given.size(), expected.size());
  report.check(most <= Ahead::kMostLines, "%ld at a time", static_cast<long>(most));
  report.check(ranges > 1 || count == static_cast<int64_t>(given.size()), "some are given twice");
}

}  // namespace symconv::test
