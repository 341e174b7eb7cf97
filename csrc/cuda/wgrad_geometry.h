// What thread blocks of a weight gradient compute, and how it lies in their shared memory.
//
// The kernel is cut into parts, one a thread block: along each of two axes up to three taps, so up to nine
// coefficients, and one tap or coefficient along the third. Shared memory has two stages for each team of
// warps, and in the end the sums that one hands to the other. A stage has some columns; a column is for every
// pair of the orbits' copies a row of both for every line, then for every position of the taps a row of
// channels for every line. A pad leads neighbouring rows to different banks.
#pragma once

#include "../common/symmetry.h"
#include "arch.cuh"

namespace symconv::cuda {

constexpr int kWgradOrbits = 32, kWgradChannels = 64;  // of a thread block
constexpr int kWgradTeamThreads = 4 * kWarpSize, kWgradTeams = 2;
constexpr int kWgradStages = 2;
// Lines of a team: the points of one step.
SYMCONV_HD constexpr int wgrad_lines(int element_bytes) { return element_bytes == 2 ? 16 : 8; }
// 16 bytes more make eight neighbouring rows start in different banks (ldmatrix), 32 bytes more make the
// words of four neighbours lie in different banks (tf32, read word by word).
SYMCONV_HD constexpr int wgrad_pad(int element_bytes) { return element_bytes == 2 ? 16 : 32; }
// Bytes of two copies of the orbits at a point of each line, or of the only one; of all copies; and of the
// channels at a position of each line. A pair of copies takes as much as a position.
SYMCONV_HD constexpr int wgrad_pair_bytes(int element_bytes, int copies) {
  return wgrad_lines(element_bytes) *
         ((copies == 1 ? 1 : 2) * kWgradOrbits * element_bytes + wgrad_pad(element_bytes));
}
SYMCONV_HD constexpr int wgrad_result_bytes(int element_bytes, int copies) {
  return (copies + 1) / 2 * wgrad_pair_bytes(element_bytes, copies);
}
SYMCONV_HD constexpr int wgrad_position_bytes(int element_bytes) {
  return wgrad_lines(element_bytes) * (kWgradChannels * element_bytes + wgrad_pad(element_bytes));
}
constexpr int kWgradSums = 9 * 2 * 2;  // tiles of 16 orbits by 8 channels that a warp has
constexpr int kWgradTeamSumBytes = kWgradSums * 16 * kWgradTeamThreads;

// Divides numbers below 2^31 by a multiplication, exactly.
struct QuickDivisor {
  uint32_t value = 1, multiplier = 0;
  int shift = 31;

  QuickDivisor() = default;
  constexpr explicit QuickDivisor(int64_t d) : value(static_cast<uint32_t>(d)) {
    while (int64_t{1} << (shift - 31) < d) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << shift) - 1) / value + 1);
  }
  // Returns the remainder and leaves the quotient in n.
  SYMCONV_HD constexpr uint32_t divide(uint32_t& n) const {
    const uint32_t quotient = static_cast<uint32_t>(uint64_t{n} * multiplier >> shift);
    const uint32_t remainder = n - quotient * value;
    n = quotient;
    return remainder;
  }
  constexpr bool divides(uint32_t n) const {
    uint32_t quotient = n;
    return divide(quotient) == n % value && quotient == n / value;
  }
  // Whether all is well about a multiple of the divisor, and at the end of the range.
  static constexpr bool is_exact(int64_t d) {
    const uint32_t last = 0x7fffffffu, multiple = last / static_cast<uint32_t>(d) * static_cast<uint32_t>(d);
    const QuickDivisor by(d);
    return by.divides(0) && by.divides(last) && by.divides(multiple) && by.divides(multiple - 1);
  }
};
static_assert(QuickDivisor::is_exact(1) && QuickDivisor::is_exact(2) && QuickDivisor::is_exact(3) &&
              QuickDivisor::is_exact(7) && QuickDivisor::is_exact(641) && QuickDivisor::is_exact(65537) &&
              QuickDivisor::is_exact(0x40000001) && QuickDivisor::is_exact(0x7fffffff));

// One spatial axis.
struct WgradAxis {
  int kernel, stride, padding, dilation, input, output;
  int coefficient;     // from one tap to the next, in the order of the partial sums
  int source, result;  // from one point to the next, in the 16 bytes that a thread copies
  int tap;             // from one tap to the next, of the source
};

// Up to three taps of an axis that a thread block takes: part `part` of the axis. Folded, slots 0 and 2 have
// a pair (then its sum and its difference) and slot 1 the middle tap.
struct TapSlots {
  int present = 7;  // as bits
  int tap[3] = {0, 1, 2};

  TapSlots() = default;
  SYMCONV_HD TapSlots(int kernel, bool folded, int part) {
    const int first = folded ? part : 3 * part, left = kernel - first;
    present = folded ? (part < kernel / 2 ? 5 : 0) | (part == 0 && kernel % 2 == 1 ? 2 : 0)
                     : (left >= 3 ? 7 : (1 << left) - 1);
    tap[0] = first;
    tap[1] = folded ? kernel / 2 : first + 1;
    tap[2] = folded ? kernel - 1 - first : first + 2;
  }
  SYMCONV_HD bool has(int slot) const { return present >> slot & 1; }
  SYMCONV_HD int before(int slot) const {
    return (slot > 0 ? present & 1 : 0) + (slot > 1 ? present >> 1 & 1 : 0);
  }
  SYMCONV_HD int count() const { return before(2) + (present >> 2); }
  // How many parts an axis is cut into; the first one has the most taps.
  static SYMCONV_HD int parts(int kernel, bool folded) {
    return folded ? (kernel < 4 ? 1 : kernel / 2) : (kernel + 2) / 3;
  }
};

struct WgradArguments {
  WgradAxis axis[kAxes];  // the folded ones first: columns, rows, planes
  // A line of points goes along the columns, or along one of some segments of them.
  int lines, length;
  QuickDivisor segments, rows, planes;  // rows and planes of the result
  int steps, split_steps;               // columns of points of all lines, and of one split
  const Word4 *source, *result;         // result: grad_output; all distances in them in 16 bytes
  int source_image, source_group, result_image, result_group;
  int source_vectors, result_vectors;  // of all channels; of one copy of the orbits
  int copy[kMaxOrbit];  // to the first orbit's mirror images, by reflection along the axes as above
  int orbits, channels;
  QuickDivisor channel_tiles, orbit_tiles, column_parts, row_parts;  // in this order the thread blocks stand
  int stage_columns, column_bytes, stage_bytes;
  float* partial;  // [split][group][tap][orbit][channel]; a coefficient is where the tap of its slot is
  int channel_pitch;
  int64_t split_size, group_size;
};

}  // namespace symconv::cuda
