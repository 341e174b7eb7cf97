// The lines that are asked for ahead, against a loop over the bytes of their ranges.
#include <set>
#include <vector>

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
  std::vector<int64_t> works;  // of the calls
  int64_t work = 0;
  for (int64_t i = 0; i < calls; ++i) {
    works.push_back(random.between(0, 500));
    work += works.back();
  }
  ahead.spread(work);
  std::set<uintptr_t> given;
  int64_t count = 0, most = 0;
  const auto take = [&](int64_t n) {
    const int64_t taken = ahead.take(n);
    for (int64_t i = 0; i < taken; ++i) given.insert(reinterpret_cast<uintptr_t>(ahead.lines()->next()) / 64);
    count += taken;
    most = std::max(most, taken);
    return taken;
  };
  std::vector<int64_t> lines;
  for (const int64_t n : works) lines.push_back(take(n));
  const int64_t in_calls = count;
  while (take(1) > 0) {
  }
  report.check(given == expected, "%zu lines are given, %zu expected", given.size(), expected.size());
  report.check(most <= Ahead::kMostLines, "%ld at a time", static_cast<long>(most));
  report.check(count == in_calls || work == 0 || most == Ahead::kMostLines, "%ld of %ld lines are left",
               static_cast<long>(count - in_calls), static_cast<long>(count));
  for (int64_t i = 0; i < calls && most < Ahead::kMostLines; ++i) {
    report.check(lines[i] <= ceil_div(count * works[i], std::max<int64_t>(1, work)),
                 "%ld lines with %ld of the work", static_cast<long>(lines[i]), static_cast<long>(works[i]));
  }
  report.check(!single || count == static_cast<int64_t>(given.size()), "some are given twice");
}

}  // namespace symconv::test
