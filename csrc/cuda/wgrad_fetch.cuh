// The way of a thread block of a weight gradient through its points, and the copies to shared memory on it:
// the implicit GEMM's gather.
#pragma once

#include "wgrad_geometry.h"

namespace symconv::cuda {

// What a thread block computes: its first orbit and channel, and which part of the kernel.
struct WgradPlace {
  int orbit, channel;
  uint32_t part;  // of the columns, the rows and the planes

  __device__ __forceinline__ explicit WgradPlace(const WgradArguments& q) {
    uint32_t rest = static_cast<uint32_t>(keep_here(static_cast<int>(blockIdx.x)));
    channel = static_cast<int>(q.channel_tiles.divide(rest)) * kWgradChannels;
    orbit = static_cast<int>(q.orbit_tiles.divide(rest)) * kWgradOrbits;
    part = rest;
  }
};

// The taps that a thread block takes. Along the planes: one, or a pair that is folded into its sum or its
// difference.
template <int Axes, bool Rolling>
struct WgradTaps {
  TapSlots columns, rows;
  int plane, mirrored = 0;
  bool paired = false, odd = false;

  __device__ __forceinline__ WgradTaps(const WgradArguments& q, const WgradPlace& place) {
    uint32_t rest = place.part;
    if constexpr (!Rolling) {
      rest = static_cast<uint32_t>(keep_here(static_cast<int>(rest)));
      columns = TapSlots(q.axis[0].kernel, Axes >= 1, static_cast<int>(q.column_parts.divide(rest)));
      rows = TapSlots(q.axis[1].kernel, Axes >= 2, static_cast<int>(q.row_parts.divide(rest)));
    }
    plane = static_cast<int>(rest);
    if constexpr (Axes == 3) {
      plane = keep_here(plane);
      mirrored = q.axis[2].kernel - 1 - plane;
      paired = plane != mirrored;
      odd = plane > mirrored;
    }
  }
  // The tap along the planes of the first or the second term.
  __device__ __forceinline__ int plane_tap(int term) const {
    return paired && odd == (term == 0) ? mirrored : plane;
  }
  // A column of a stage has positions for [tap along the planes][row][column], of columns only one if
  // Rolling.
  __device__ __forceinline__ int column_count() const { return Rolling ? 1 : columns.count(); }
  __device__ __forceinline__ int position(int row, int column) const {
    return rows.before(row) * column_count() + (Rolling ? 0 : columns.before(column));
  }
  __device__ __forceinline__ int positions() const { return rows.count() * column_count(); }
};

// A thread block's way along its lines: the columns of a split's steps. In each line, those that fill the
// registers come before.
template <bool Rolling>
struct WgradWalk {
  static constexpr int kAhead = Rolling ? 2 : 0;
  int left;         // columns
  int line;         // the next one to start
  int of_line = 0;  // columns that are left of the line
  int steps;        // so many of them complete a step, the last ones; -1 - begin before the first line

  __device__ __forceinline__ WgradWalk(const WgradArguments& q, int split) {
    const int first = split * q.split_steps, rest = q.steps - first;
    const int all = rest < 0 ? 0 : rest < q.split_steps ? rest : q.split_steps;
    line = first / q.length;
    const int begin = first % q.length;
    steps = -1 - begin;
    left = all == 0 ? 0 : all + kAhead * ((begin + all - 1) / q.length + 1);
  }
  // How many columns the next stage has.
  __device__ __forceinline__ int next_stage(const WgradArguments& q) {
    const int count = left < q.stage_columns ? left : q.stage_columns;
    left -= count;
    return count;
  }
  // Whether the next column starts a line, and whether it completes a step.
  __device__ __forceinline__ bool at_start() const { return of_line == 0; }
  __device__ __forceinline__ bool at_step() const { return of_line <= steps; }
  // Returns where in the line its first column is.
  __device__ __forceinline__ int start_line(const WgradArguments& q) {
    const int begin = steps < 0 ? -1 - steps : 0;
    steps = q.length - begin;
    of_line = steps + kAhead;
    ++line;
    return begin - kAhead;
  }
};

// What a thread copies: 16 bytes of every row of one line, of the source and of each pair of copies.
template <typename Kernel>
struct WgradFetch {
  using Taps = typename Kernel::Taps;
  static constexpr int kVectors = kWgradChannels * Kernel::kBytes / 16;  // of a row of the source
  static constexpr int kCopyVectors = kVectors * kWgradOrbits / kWgradChannels;
  static_assert(kVectors * Kernel::kLines == kWgradTeamThreads, "a thread for every vector of a position");
  static constexpr int kPairs = (Kernel::kCopies + 1) / 2;             // of copies, at most
  static constexpr bool kKeepsPair = kPairs == 2 && Kernel::kRolling;  // registers are left for that

  const Word4 *source, *result;  // of the next column: at the first tap, and at the point
  int second_pair = 0;           // of copies, from the first one: if kKeepsPair
  int x;                         // of the next column: where the first tap is
  int beyond;      // columns at the end of the line that have no points: all, if the thread has no orbits
  uint32_t flags;  // what the thread has channels of: the rows by plane and slot; the kernel has the others
  static constexpr uint32_t kRows = (1u << 6) - 1;

  // Of the copies of a pair, from the first of all, the one that a vector of a row lies in.
  static __device__ __forceinline__ int copy_offset(const WgradArguments& q, int pair, int vector) {
    return q.copy[2 * pair + vector / kCopyVectors];
  }
  static __device__ __forceinline__ int row(int thread) { return thread / kVectors; }
  static __device__ __forceinline__ int vector(int thread) { return thread % kVectors; }
  // Where a thread's bytes of a column go.
  static __device__ __forceinline__ uint32_t destination(int thread) {
    return static_cast<uint32_t>(row(thread) * Kernel::kPositionPitch + vector(thread) * 16);
  }

  // Starts line `number`, at its column `at`.
  __device__ __forceinline__ void start_line(const WgradArguments& q, int thread, int number, int at) {
    const WgradPlace place(q);
    const Taps taps(q, place);
    const WgradAxis &columns = q.axis[0], &rows = q.axis[1], &planes = q.axis[2];
    uint32_t rest = static_cast<uint32_t>(number * Kernel::kLines + row(thread));
    const bool exists = rest < static_cast<uint32_t>(q.lines);
    const int segment = static_cast<int>(q.segments.divide(rest)), y = static_cast<int>(q.rows.divide(rest)),
              z = static_cast<int>(q.planes.divide(rest)), image = static_cast<int>(rest);
    const int first_row = y * rows.stride - rows.padding, first_plane = z * planes.stride - planes.padding;
    const int of_row = vector(thread);
    const int channel = place.channel * Kernel::kBytes / 16 + of_row,
              orbit = place.orbit * Kernel::kBytes / 16 + of_row % kCopyVectors;
    const int first_column = segment * q.length;
    const int column = first_column + at;
    x = Kernel::kRolling ? column + (2 - columns.padding) : column * columns.stride - columns.padding;
    source = q.source + (static_cast<int>(blockIdx.y) * q.source_group + channel + image * q.source_image +
                         first_plane * planes.source + taps.plane_tap(0) * planes.tap +
                         first_row * rows.source + x * columns.source);
    int point = static_cast<int>(blockIdx.y) * q.result_group + orbit + image * q.result_image +
                z * planes.result + y * rows.result + column * columns.result;
    if constexpr (kKeepsPair) {
      point += copy_offset(q, 0, of_row);
      second_pair = copy_offset(q, 1, of_row) - copy_offset(q, 0, of_row);
    }
    result = q.result + point;
    beyond = exists && orbit < q.result_vectors ? q.length + first_column - columns.output : q.length;
    const bool has_channels = exists && channel < q.source_vectors;
    flags &= ~kRows;
#pragma unroll
    for (int p = 0; p < Kernel::kPlanes; ++p) {
      const int plane = first_plane + taps.plane_tap(p) * planes.dilation;
#pragma unroll
      for (int slot = 0; slot < 3; ++slot) {
        const int row_at = first_row + taps.rows.tap[slot] * rows.dilation;
        if (has_channels && plane >= 0 && plane < planes.input && row_at >= 0 && row_at < rows.input)
          flags |= 1u << (3 * p + slot);
      }
    }
  }

  // Starts the copies of the taps to a column of a stage: of all columns of taps, or of the last one.
  __device__ __forceinline__ void start_taps(const WgradArguments& q, const Taps& taps,
                                             SharedAddress to) const {
    const WgradAxis& columns = q.axis[0];
    to += Kernel::kResultBytes;
#pragma unroll
    for (int p = 0; p < Kernel::kPlanes; ++p) {
      if (p == 1 && !taps.paired) break;
      const Word4* plane =
          p == 0 ? source : advanced(source, (taps.plane_tap(1) - taps.plane_tap(0)) * q.axis[2].tap);
#pragma unroll
      for (int slot = 0; slot < 3; ++slot) {
        if (!taps.rows.has(slot)) continue;
        const Word4* line = advanced(plane, taps.rows.tap[slot] * q.axis[1].tap);
#pragma unroll
        for (int column = 0; column < (Kernel::kRolling ? 1 : 3); ++column) {
          if (!taps.columns.has(column)) continue;
          const int tap = Kernel::kRolling ? 0 : taps.columns.tap[column];
          const int at = x + tap * columns.dilation;
          const uint32_t valid = static_cast<unsigned>(at) < static_cast<unsigned>(columns.input) ? flags : 0;
          copy_async<16>(to, tap == 0 ? line : advanced(line, tap * columns.tap),
                         valid & 1u << (3 * p + slot));
          to += Kernel::kPositionBytes;
        }
      }
    }
  }

  // Starts the copies of grad_output, with so many columns left of the line.
  __device__ __forceinline__ void start_points(const WgradArguments& q, SharedAddress to, int of_line) const {
    const uint32_t valid = of_line > beyond;
    const int thread = static_cast<int>(threadIdx.x) % kWgradTeamThreads;
    to -= static_cast<uint32_t>(row(thread) * (Kernel::kPositionPitch - Kernel::kResultPitch));
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      if (Kernel::kCopies == 1 && vector(thread) >= kCopyVectors) return;
      const Word4* of_pair = result;
      if constexpr (!kKeepsPair) {
        of_pair = advanced(result, copy_offset(q, pair, vector(thread)));
      } else if (pair > 0) {
        of_pair = advanced(result, second_pair);
      }
      copy_async<16>(to + pair * Kernel::kPairBytes, of_pair, valid);
    }
  }

  // Goes on to the next column of the line.
  __device__ __forceinline__ void advance(const WgradArguments& q) {
    const int stride = Kernel::kRolling ? 1 : q.axis[0].stride;
    x += stride;
    source = advanced(source, stride * q.axis[0].source);
    result = advanced(result, q.axis[0].result);
  }
};

}  // namespace symconv::cuda
