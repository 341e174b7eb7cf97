// The lines that are asked for ahead, against a loop over the bytes of their ranges.
#include <set>

#include "../../csrc/cpu/ahead.h"
#include "checks.h"

namespace symconv::test {

namespace {

// A group of planes, each of which lies behind the others, and their lines. Returns whether it has one range
// at most.
bool add_group(Random& random, Ahead& ahead, std::set<uintptr_t>& lines) {
  const int64_t ranges = random.between(0, 4), planes = random.between(0, 6);
  std::vector<int64_t> bytes;  // of a plane
  int64_t end = 0;
  for (int64_t i = 0; i < ranges; ++i) {
    const int64_t first = end + random.one_of({0, 1, 65, 300, 5000}), count = random.between(1, 700);
    ahead.add_range(first, count);
    // What lies between ranges that nearly meet is asked for, too.
    for (int64_t b = i > 0 && first <= end + 64 ? end : first; b < first + count; ++b) bytes.push_back(b);
    end = first + count;
  }
  uintptr_t base = lines.empty() ? static_cast<uintptr_t>(random.between(1 << 20, 1 << 21))
                                 : (*lines.rbegin() + random.between(1, 3)) * 64;
  for (int64_t p = 0; p < planes; ++p) {
    ahead.add_plane(reinterpret_cast<const void*>(base));
    for (const int64_t b : bytes) lines.insert((base + b) / 64);
    base += static_cast<uintptr_t>(end + random.one_of({0, 3, 64, 10000}));
  }
  ahead.end_group();
  return ranges <= 1;
}

}  // namespace

void check_ahead(Random& random, Report& report) {
  const int64_t groups = random.between(0, 3), calls = random.between(0, 30);
  report.begin("ahead: %ld groups in %ld calls", static_cast<long>(groups), static_cast<long>(calls));
  Ahead ahead;
  ahead.add_range(5, 999);  // to be forgotten
  ahead.add_plane(&ahead);
  if (random.chance(0.5)) ahead.end_group();
  ahead.clear();
  std::set<uintptr_t> expected;
  bool single = true;  // ranges
  for (int64_t g = 0; g < groups; ++g) single = add_group(random, ahead, expected) && single;
  ahead.spread(calls);
  std::set<uintptr_t> given;
  int64_t count = 0, used = 0, most = 0;
  while (const int n = ahead.take()) {
    for (int i = 0; i < n; ++i) given.insert(reinterpret_cast<uintptr_t>(ahead.lines()->next()) / 64);
    count += n;
    most = std::max<int64_t>(most, n);
    ++used;
  }
  report.check(given == expected, "%zu lines are given, %zu expected", given.size(), expected.size());
  report.check(most <= Ahead::kMostLines, "%ld at a time", static_cast<long>(most));
  report.check(used <= std::max(calls, ceil_div(count, Ahead::kMostLines)), "it takes %ld calls",
               static_cast<long>(used));
  report.check(!single || count == static_cast<int64_t>(given.size()), "some are given twice");
}

}  // namespace symconv::test
