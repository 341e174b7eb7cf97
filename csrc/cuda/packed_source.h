// What a tensor-core kernel reads: channels side by side, in runs of 16 aligned bytes. A tensor that does not
// lie so is copied.
#pragma once

#include <cstdint>

#include "../common/channel_map.h"
#include "operators.h"

namespace symconv::cuda {

struct SourceView {
  const void* data;
  int64_t strides[4];  // elements from one image, plane, row and point to the next
  int64_t group;       // elements from one group's channels to the next
  int channels;        // of a group, a multiple of 16 bytes
};

// 128 bytes through shared memory that a step of channels of a patch takes on its way there: 32 bytes of each
// position, and once a stage where they come from.
inline int64_t patch_wavefronts(int64_t positions, int64_t stage_steps) {
  return positions * (4 * stage_steps + 1) / (16 * stage_steps);
}

// The extents of a source: (batch, channels of all groups, groups, z, v, h).
struct SourceShape {
  int64_t batch, channels, groups, points[kAxes];
};

inline int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Runs of a group's channels that are read from their first one, which must lie at whole 16 bytes.
struct ChannelRuns {
  static constexpr int kMost = 27;  // copies in all blocks
  struct Run {
    int64_t first, channels;
    int64_t at;  // where the first one lies in what is read: the tensor or its copy
  };
  int count;
  Run runs[kMost];

  void add(int64_t first, int64_t channels) { runs[count++] = {first, channels, first}; }
};

// All channels of a group; or those of every copy of every block of a tied tensor, in this order.
ChannelRuns whole_run(const SourceShape& shape);
ChannelRuns tied_runs(const ChannelMap& map);

// Bytes of the copy (see packed()) that a tensor needs, a multiple of 16: none where it can be read as it
// lies, unless it is `far_apart`: the kernels count on steps that are smaller.
int64_t copy_size(const SourceShape& shape, const ChannelRuns& runs, const Tensor& tensor,
                  bool far_apart = false);
// The tensor as the kernels read it: itself, or a copy in `memory` (copy_size() bytes, aligned to 16) with
// every run padded by zeros. Notes in the runs where they are.
SourceView packed(const Problem& problem, const SourceShape& shape, ChannelRuns& runs, const Tensor& tensor,
                  void* memory, cudaStream_t stream, bool far_apart = false);

}  // namespace symconv::cuda
