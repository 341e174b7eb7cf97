// Planes of slots of a tied tensor (see slots_kernel.cuh): their layout, and how they are made.
#pragma once

#include "../common/channel_map.h"
#include "packed_source.h"

namespace symconv::cuda {

struct SlotPlanes {
  int64_t first[kBlocks];  // channel of a block's first plane, within a group
  int64_t width[kBlocks];  // channels of one plane: its orbits, padded to whole 16 bytes
  int64_t group;           // channels of a group
  int64_t point;           // channels of a point

  SlotPlanes(const ChannelMap& map, int64_t groups, DType dtype) {
    const int64_t run = 16 / element_size(dtype);
    group = 0;
    for (int b = 0; b < kBlocks; ++b) {
      first[b] = group;
      width[b] = (map.blocks[b].orbits + run - 1) / run * run;
      group += width[b] * map.blocks[b].size();
    }
    point = groups * group;
  }
};

// What a slot of a block of `axes` axes is multiplied with: float16 keeps the size of the channels, so that
// no sum overflows.
inline float slot_scale(DType dtype, int axes) {
  return dtype == DType::kFloat16 ? 1.0f / static_cast<float>(1 << axes) : 1.0f;
}

int64_t slots_size(const ChannelMap& map, const SourceShape& shape, DType dtype);
// Makes the planes of the tensor in `memory` (slots_size() bytes, aligned to 16).
SourceView make_slots(const Problem& problem, const ChannelMap& map, const SourceShape& shape,
                      const Tensor& tensor, void* memory, cudaStream_t stream);

}  // namespace symconv::cuda
