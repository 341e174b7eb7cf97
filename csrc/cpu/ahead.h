// Asking for memory before it is needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "patch.h"

namespace symconv::cpu {

// Memory that will be needed soon: planes of the same ranges. It is asked for a few lines with every call of
// the micro-kernel; met without having been asked for, each would cost the full latency.
class Ahead {
 public:
  static constexpr int64_t kLine = 64;       // bytes
  static constexpr int64_t kMostLines = 64;  // with a call

  void clear() {
    ranges_.clear();
    bases_.clear();
    plane_ = range_ = 0;
    line_ = end_ = 0;
    most_ = 0;
  }
  // Ranges come in ascending order; those that meet become one.
  void add_range(int64_t first, int64_t bytes) {
    if (!ranges_.empty() && first >= ranges_.back().first &&
        first <= ranges_.back().first + ranges_.back().bytes + kLine) {
      ranges_.back().bytes = std::max(ranges_.back().bytes, first + bytes - ranges_.back().first);
    } else {
      ranges_.push_back({first, bytes});
    }
  }
  void add_plane(const void* base) { bases_.push_back(reinterpret_cast<uintptr_t>(base)); }
  // Divides all lines between `calls` of the micro-kernel.
  void spread(int64_t calls) {
    int64_t lines = 0;
    for (const Range& r : ranges_) lines += r.bytes / kLine + 1;
    lines *= static_cast<int64_t>(bases_.size());
    most_ = std::min(kMostLines, ceil_div(lines, std::max<int64_t>(1, calls)));
  }
  // Those of the next call; returns how many.
  int take(const void** lines) {
    int64_t taken = 0;
    while (taken < most_ && (line_ < end_ || next())) {
      const int64_t n = std::min(most_ - taken, static_cast<int64_t>(end_ - line_ + kLine - 1) / kLine);
      for (int64_t i = 0; i < n; ++i) lines[taken + i] = reinterpret_cast<const void*>(line_ + kLine * i);
      taken += n;
      line_ += kLine * n;
    }
    return static_cast<int>(taken);
  }

 private:
  struct Range {
    int64_t first, bytes;
  };

  // The same range of the next plane, or the next range of the first; without the line that both may share.
  bool next() {
    if (plane_ == bases_.size()) plane_ = 0, ++range_;
    if (range_ >= ranges_.size() || bases_.empty()) return false;
    const uintptr_t first = bases_[plane_++] + ranges_[range_].first, past = line_;
    end_ = first + ranges_[range_].bytes;
    line_ = first / kLine * kLine;
    if (line_ + kLine == past) line_ = past;
    return true;
  }

  std::vector<Range> ranges_;
  std::vector<uintptr_t> bases_;
  size_t plane_ = 0, range_ = 0;
  uintptr_t line_ = 0, end_ = 0;  // what is left of that range
  int64_t most_ = 0;
};

}  // namespace symconv::cpu
