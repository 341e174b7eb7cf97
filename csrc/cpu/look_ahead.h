// What the GEMM of fprop and dgrad asks for on the side: see Ahead.
#pragma once

#include <vector>

#include "ahead.h"
#include "convolution.h"
#include "pack.h"
#include "patch.h"

namespace symconv::cpu {

class LookAhead : public Ahead {
 public:
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

 private:
  std::vector<OutputRun> pieces_;
};

}  // namespace symconv::cpu
