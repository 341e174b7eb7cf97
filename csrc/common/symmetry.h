// The group of mirror reflections: axes, masks, blocks, and the only place where a sign is decided.
//
// A mask is a set of axes as bits (h = 1, v = 2, z = 4). The same bits name three things: the axes that an
// orbit is mirrored along (its mask), one reflection of the group (an element g of the mask), and one parity
// pattern (the axes in which a coefficient is odd). Their pairing is the character of the group: sign(parity,
// g) = (-1)^|parity & g|.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace symconv {

constexpr int kAxes = 3;      // spatial dimensions: 0 = z (depth), 1 = v (height), 2 = h (width)
constexpr int kBlocks = 8;    // h, v, z, hv, hz, vz, hvz, plain
constexpr int kMaxOrbit = 8;  // filters in an hvz orbit

enum Axis : int { kH = 1, kV = 2, kZ = 4 };

// The bit of spatial dimension `dim` (0 = z, 1 = v, 2 = h).
SYMCONV_HD constexpr int axis_bit(int dim) { return kZ >> dim; }

SYMCONV_HD constexpr int axis_count(int mask) { return (mask & 1) + ((mask >> 1) & 1) + ((mask >> 2) & 1); }

// Filters in an orbit of `mask`.
SYMCONV_HD constexpr int orbit_size(int mask) { return 1 << axis_count(mask); }

// (-1)^popcount(parity & reflection): how a coefficient that is odd along `parity` changes under
// `reflection`.
SYMCONV_HD constexpr int sign(int parity, int reflection) {
  return axis_count(parity & reflection) & 1 ? -1 : 1;
}

// The mask of block 0..7, in the order of the checkpoint format: h, v, z, hv, hz, vz, hvz, plain.
SYMCONV_HD constexpr int block_mask(int block) {
  // A digit per block, the first one lowest: a table that a GPU need not keep in memory.
  return 0x07653421 >> 4 * block & 7;
}

// The reflection that makes copy 0..orbit_size-1 of a filter of `mask`; copy 0 is the reduced filter itself.
// The order is the checkpoint format's: hv gives h, v, hv; hz gives h, z, hz; vz gives v, z, vz; hvz gives h,
// v, z, vz, hz, hv, hvz.
SYMCONV_HD constexpr int reflection(int mask, int copy) {
  if (mask == (kH | kV | kZ)) return 0x73564210 >> 4 * copy & 7;  // a digit per copy
  // With at most two axes, the subsets of the mask in ascending order are the right order.
  int g = 0;
  for (int i = 0; i < copy; ++i) g = (g - mask) & mask;
  return g;
}

// The subset of `mask` whose rank among all subsets, in ascending order, is `index`: the parity pattern of a
// slot.
SYMCONV_HD constexpr int subset(int mask, int index) {
  int s = 0;
  for (int i = 0; i < index; ++i) s = (s - mask) & mask;
  return s;
}

// The inverse of subset(): the slot of parity pattern `parity`, a subset of `mask`.
SYMCONV_HD constexpr int subset_index(int mask, int parity) {
  int index = 0;
  for (int s = 0; s != parity; s = (s - mask) & mask) ++index;
  return index;
}

}  // namespace symconv
