// Asking for memory before it is needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels.h"
#include "patch.h"

namespace symconv::cpu {

// Memory that will be needed soon: groups of planes of the same ranges. It is asked for a few lines with
// every call of the micro-kernel; met without having been asked for, each would cost the full latency.
class Ahead {
 public:
  static constexpr int64_t kMostLines = 192;  // with a call

  void clear() {
    runs_.clear();
    ranges_.clear();
    bases_.clear();
    last_ = 0;
    left_ = 0;
  }
  // Ranges, in bytes from a plane's start, come in ascending order; those that meet become one.
  void add_range(int64_t first, int64_t bytes) {
    if (!ranges_.empty() && first >= ranges_.back().first &&
        first <= ranges_.back().first + ranges_.back().bytes + kLine) {
      ranges_.back().bytes = std::max(ranges_.back().bytes, first + bytes - ranges_.back().first);
    } else {
      ranges_.push_back({first, bytes});
    }
  }
  void add_plane(const void* base) { bases_.push_back(static_cast<const char*>(base)); }
  // These ranges of these planes are a group: what is added from now on belongs to the next one. Of all
  // planes the first range comes first.
  void end_group() {
    for (const Range& range : ranges_) {
      for (const char* base : bases_) add_run(base + range.first, range.bytes);
    }
    ranges_.clear();
    bases_.clear();
  }
  // A single run, without the line that it may share with the one before.
  void add_run(const char* first, int64_t bytes) {
    const auto at = reinterpret_cast<uintptr_t>(first);
    const uintptr_t end = (at + bytes + kLine - 1) / kLine * kLine;
    uintptr_t begin = at / kLine * kLine;
    if (begin + kLine == last_) begin = last_;
    last_ = end;
    if (begin >= end) return;
    const auto count = static_cast<int64_t>((end - begin) / kLine);
    runs_.push_back({reinterpret_cast<const char*>(begin), count});
    left_ += count;
  }
  // Divides all lines between `calls` of the micro-kernel.
  void spread(int64_t calls) {
    most_ = std::min(kMostLines, ceil_div(left_, std::max<int64_t>(1, calls)));
    runs_.push_back({nullptr, std::numeric_limits<int64_t>::max()});
    lines_ = {runs_.data(), runs_[0].first, runs_[0].count};
  }
  // How many of lines() the next call asks for.
  int take() {
    const int64_t count = std::min(most_, left_);
    left_ -= count;
    return static_cast<int>(count);
  }
  Lines* lines() { return &lines_; }

 private:
  struct Range {
    int64_t first, bytes;
  };

  std::vector<Range> ranges_;  // of the group
  std::vector<const char*> bases_;
  std::vector<LineRun> runs_;
  Lines lines_{};
  uintptr_t last_ = 0;           // where the last run ends
  int64_t most_ = 0, left_ = 0;  // lines
};

}  // namespace symconv::cpu
