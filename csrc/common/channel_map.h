// Which filters of a group share a reduced filter, and where in the tied dimension each one stands.
//
// Order of the tied channels of one group (part of the checkpoint format): every reduced filter, in block
// order; then, block by block, the mirrored copies, one reflection after the other.
#pragma once

#include <cstdint>

#include "problem.h"

namespace symconv {

// One block of one group: `orbits` orbits of `mask`, the first of which is reduced filter `first` of the
// group.
struct Block {
  int mask;
  int64_t orbits;
  int64_t first;   // first reduced filter, within the group; also the tied channel of its copy 0
  int64_t copies;  // tied channel of copy 1 of the first orbit, within the group

  SYMCONV_HD int size() const { return orbit_size(mask); }
  // Tied channel, within the group, of copy `copy` of orbit `orbit` of this block. Its reflection is
  // reflection(mask, copy).
  SYMCONV_HD int64_t channel(int64_t orbit, int copy) const {
    return copy == 0 ? first + orbit : copies + (copy - 1) * orbits + orbit;
  }
};

// One tied channel: its reduced filter, within the group, and the reflection of that filter that it is.
struct Member {
  int64_t filter;
  int reflection;
};

// The blocks of one group, empty ones included.
struct ChannelMap {
  Block blocks[kBlocks];
  int64_t unique;    // reduced filters of a group
  int64_t channels;  // tied channels of a group

  SYMCONV_HD explicit ChannelMap(const Problem& problem) : unique(0), channels(0) {
    for (int b = 0; b < kBlocks; ++b) {
      blocks[b].mask = block_mask(b);
      blocks[b].orbits = problem.orbits[b] / problem.groups;
      blocks[b].first = unique;
      unique += blocks[b].orbits;
    }
    channels = unique;
    for (int b = 0; b < kBlocks; ++b) {
      blocks[b].copies = channels;
      channels += blocks[b].orbits * (blocks[b].size() - 1);
    }
  }

  // The block of reduced filter `filter` of a group.
  SYMCONV_HD const Block& block_of(int64_t filter) const {
    int b = 0;
    while (filter >= blocks[b].first + blocks[b].orbits) ++b;
    return blocks[b];
  }

  // Which filter the tied channel `channel` of a group mirrors, and how: the inverse of Block::channel().
  SYMCONV_HD Member member(int64_t channel) const {
    if (channel < unique) return {channel, 0};
    int b = 0;
    while (channel >= blocks[b].copies + blocks[b].orbits * (blocks[b].size() - 1)) ++b;
    const int64_t at = channel - blocks[b].copies;
    return {blocks[b].first + at % blocks[b].orbits,
            symconv::reflection(blocks[b].mask, 1 + static_cast<int>(at / blocks[b].orbits))};
  }
};

}  // namespace symconv
