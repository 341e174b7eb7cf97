// Random operands that the checks share.
#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "checks.h"
#include "guarded.h"

namespace symconv::test {

inline int sign(int q, int e) { return __builtin_popcount(q & e) % 2 ? -1 : 1; }

template <typename T>
void fill(const Guarded<T>& buffer, Random& random) {
  for (int64_t i = 0; i < buffer.size(); ++i) buffer[i] = random.number<T>();
  buffer.freeze();
}

// Strides of channels and points in a tensor.
struct Strides {
  int64_t channel, point;
};

// Planar, channels last, with steps between elements, or broadcast (for what is only read).
inline Strides random_strides(Random& random, int64_t channels, int64_t points, bool broadcast) {
  const int64_t gap = random.chance(0.5) ? 0 : random.between(1, 9);
  switch (random.between(0, broadcast ? 4 : 3)) {
    case 0:
      return {points + gap, 1};
    case 1:
      return {1, channels + gap};
    case 2:
      return {2 * points + gap, 2};
    case 3:
      return {3, 3 * channels + gap};
    default:
      return {random.between(0, 1), random.between(0, 1)};
  }
}

inline int64_t extent(const Strides& strides, int64_t channels, int64_t points) {
  if (channels == 0 || points == 0) return 0;
  return (channels - 1) * strides.channel + (points - 1) * strides.point + 1;
}

// `set_count` random sets whose coefficients are a permutation; returns how many coefficients there are.
inline int64_t random_sets(Random& random, int set_count, int copies, int64_t max_tap,
                           std::vector<TapSet>& sets) {
  sets.assign(set_count, TapSet{});
  int64_t total = 0;
  for (TapSet& set : sets) {
    set.terms = static_cast<int>(random.one_of({1, 2, 4, 8}));
    for (int c = 0; c < copies; ++c) {
      for (int e = 0; e < set.terms; ++e) set.tap[c][e] = random.between(0, max_tap);
    }
    for (int q = 0; q < set.terms; ++q) set.coefficient[q] = total++;
  }
  std::vector<int64_t> order(total);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = total - 1; i > 0; --i) std::swap(order[i], order[random.between(0, i)]);
  for (TapSet& set : sets) {
    for (int q = 0; q < set.terms; ++q) set.coefficient[q] = order[set.coefficient[q]];
  }
  return total;
}

}  // namespace symconv::test
