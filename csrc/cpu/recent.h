// What was made for the last few problems, kept by each thread for its next calls.
//
// A layer is called with the same problem over and over, and between two calls of it its part of the caches
// is used for other things: looking up what was made the first time touches less memory than making it again.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "../common/problem.h"

namespace symconv::cpu {

template <typename Value>
class Recent {
 public:
  // What make() returned for this problem and variant; it is called unless that is among the last kMost.
  // Valid until the next call.
  template <typename Make>
  const Value& get(const Problem& problem, int64_t variant, Make&& make) {
    const uint64_t hash = hash_of(problem, variant);
    auto slot = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& s) {
      return s.hash == hash && s.entry->variant == variant && s.entry->problem == problem;
    });
    if (slot == slots_.end()) {
      Slot made{hash, std::unique_ptr<Entry>(new Entry{problem, variant, make()})};
      if (slots_.size() < kMost) slots_.emplace_back();
      slot = slots_.end() - 1;
      *slot = std::move(made);
    }
    std::rotate(slots_.begin(), slot, slot + 1);
    return slots_.front().entry->value;
  }

 private:
  static constexpr size_t kMost = 64;

  struct Entry {
    Problem problem;
    int64_t variant;
    Value value;
  };
  struct Slot {
    uint64_t hash = 0;
    std::unique_ptr<Entry> entry;
  };

  static uint64_t hash_of(const Problem& p, int64_t variant) {
    uint64_t hash = static_cast<uint64_t>(variant);
    const auto add = [&](const int64_t* numbers, int count) {
      for (int i = 0; i < count; ++i) {
        hash = (hash ^ static_cast<uint64_t>(numbers[i])) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
      }
    };
    for (const int64_t n : {p.batch, p.a_channels, p.b_channels, p.groups}) add(&n, 1);
    for (const auto& numbers : {p.input, p.output, p.kernel, p.stride, p.padding, p.dilation}) {
      add(numbers, kAxes);
    }
    add(p.orbits, kBlocks);
    return hash;
  }

  std::vector<Slot> slots_;  // the last one used first
};

}  // namespace symconv::cpu
