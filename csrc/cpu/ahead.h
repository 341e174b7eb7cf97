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
// every call of the micro-kernel; met without having been asked for, each would cost the full latency. Of
// many at once a processor may drop those that it has no buffer for.
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
    const size_t before = runs_.size();
    runs_.resize(before + ranges_.size() * bases_.size());
    LineRun* next = runs_.data() + before;
    for (const Range& range : ranges_) {
      for (const char* base : bases_) next = add_lines(base + range.first, range.bytes, next);
    }
    runs_.resize(static_cast<size_t>(next - runs_.data()));
    ranges_.clear();
    bases_.clear();
  }
  // A single run.
  void add_run(const char* first, int64_t bytes) {
    LineRun run;
    if (add_lines(first, bytes, &run) != &run) runs_.push_back(run);
  }
  // Divides all lines between calls of the micro-kernel that do `work` together, in any unit.
  void spread(int64_t work) {
    work_ = work;
    runs_.push_back({nullptr, std::numeric_limits<int64_t>::max()});
    lines_ = {runs_.data(), runs_[0].first, runs_[0].count};
  }
  // How many of lines() the next call, which does `work` of it, asks for.
  int take(int64_t work) {
    const int64_t share = ceil_div(left_ * work, std::max<int64_t>({1, work, work_}));
    const int64_t count = std::min({share, left_, kMostLines});
    work_ -= work;
    left_ -= count;
    return static_cast<int>(count);
  }
  bool empty() const { return left_ == 0; }
  Lines* lines() { return &lines_; }

 private:
  struct Range {
    int64_t first, bytes;
  };

  // The lines of a run, without the one that it may share with the run before, to *next, unless there are
  // none. Returns where the next run goes.
  LineRun* add_lines(const char* first, int64_t bytes, LineRun* next) {
    const auto at = reinterpret_cast<uintptr_t>(first);
    const uintptr_t end = (at + bytes + kLine - 1) / kLine * kLine;
    uintptr_t begin = at / kLine * kLine;
    if (begin + kLine == last_) begin = last_;
    last_ = end;
    if (begin >= end) return next;
    const auto count = static_cast<int64_t>((end - begin) / kLine);
    *next = {reinterpret_cast<const char*>(begin), count};
    left_ += count;
    return next + 1;
  }

  std::vector<Range> ranges_;  // of the group
  std::vector<const char*> bases_;
  std::vector<LineRun> runs_;
  Lines lines_{};
  uintptr_t last_ = 0;  // where the last run ends
  int64_t left_ = 0;    // lines
  int64_t work_ = 0;    // of the calls that are to come
};

}  // namespace symconv::cpu
