// What the GEMM of fprop and dgrad asks for on the side: see Ahead.
#pragma once

#include <vector>

#include "ahead.h"
#include "convolution.h"
#include "pack.h"
#include "patch.h"

namespace symconv::cpu {

class LookAhead {
 public:
  static constexpr int64_t kMostLines = 3 * Ahead::kMostLines;  // with a call

  void clear();
  // The channels of `chunk` of the points that tile `next` stages. Those that are planes are asked for one by
  // one; where channels lie next to each other, all of a point are, with a tile's `first` chunk, unless they
  // are of several groups.
  void add_source(const Convolution& convolution, const Patch& patch, int64_t group, const Tile& next,
                  const Chunk& chunk, bool first, const Tensor& source);
  // The output of `rows` of each row block, copy by copy, at the points of `runs`. `all`: these are all rows.
  // Where channels lie next to each other they are asked for point by point, unless they are all channels;
  // not where there are several groups, whose pieces of a point are too short to be worth it.
  void add_output(const Convolution& convolution, int64_t group, const std::vector<RowRange>& rows, bool all,
                  const std::vector<OutputRun>& runs, const Tensor& output);
  // Weights are added by those who know how they lie.
  Ahead& weights() { return weights_; }

  // Divides all lines between `calls` of the micro-kernel.
  void spread(int64_t calls);
  // Those of the next call; returns how many.
  int take(const void** lines);

 private:
  Ahead source_, output_, weights_;
  std::vector<OutputRun> runs_;
};

}  // namespace symconv::cpu
