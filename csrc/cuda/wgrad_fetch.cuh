// The way of a thread block of a weight gradient through its points, and the copies to shared memory on it:
// the implicit GEMM's gather.
#pragma once

#include "wgrad_geometry.h"

namespace symconv::cuda {

// What a thread block computes: its first orbit and channel, and which part of the kernel.
struct WgradPlace {
  int orbit, channel, columns, rows, plane;

  __device__ __forceinline__ explicit WgradPlace(const WgradArguments& q) {
    unsigned rest = static_cast<unsigned>(keep_here(static_cast<int>(blockIdx.x)));
    auto next = [&](int count) {
      const int number = static_cast<int>(rest % static_cast<unsigned>(count));
      rest /= static_cast<unsigned>(count);
      return number;
    };
    channel = next(q.channel_tiles) * kWgradChannels;
    orbit = next(q.orbit_tiles) * kWgradOrbits;
    columns = next(q.column_parts);
    rows = next(q.row_parts);
    plane = static_cast<int>(rest);
  }
};

// The taps that a thread block takes. Along the planes: one, or a pair that is folded into its sum or its
// difference.
template <int Axes, bool Rolling>
struct WgradTaps {
  TapSlots columns, rows;
  int plane, mirrored;
  bool paired = false, odd = false;

  __device__ __forceinline__ WgradTaps(const WgradArguments& q, const WgradPlace& place)
      : plane(Axes == 3 ? keep_here(place.plane) : place.plane), mirrored(q.axis[2].kernel - 1 - plane) {
    if constexpr (!Rolling) {
      columns = TapSlots(q.axis[0].kernel, Axes >= 1, keep_here(place.columns));
      rows = TapSlots(q.axis[1].kernel, Axes >= 2, keep_here(place.rows));
    }
    if constexpr (Axes == 3) {
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
  int left;             // columns
  int line, at, begin;  // the next line to start; where in the line the next column and the first step are

  __device__ __forceinline__ WgradWalk(const WgradArguments& q, int split) {
    const int first = split * q.split_steps, rest = q.steps - first;
    const int steps = rest < 0 ? 0 : rest < q.split_steps ? rest : q.split_steps;
    line = first / q.length;
    begin = first % q.length;
    at = begin - kAhead;
    left = steps == 0 ? 0 : steps + kAhead * ((begin + steps - 1) / q.length + 1);
  }
  // Whether the next column starts a line, and whether it completes a step.
  __device__ __forceinline__ bool at_start() const { return at == begin - kAhead; }
  __device__ __forceinline__ bool at_step() const { return at >= begin; }
  __device__ __forceinline__ void advance(const WgradArguments& q) {
    --left;
    if (++at == q.length) {
      at = -kAhead;
      begin = 0;
    }
  }
};

// What a thread copies: 16 bytes of every row of one line, of the source and of each pair of copies.
template <typename Kernel>
struct WgradFetch {
  using Taps = typename Kernel::Taps;
  static constexpr int kVectors = kWgradChannels * Kernel::kBytes / 16;  // of a row of the source
  static constexpr int kCopyVectors = kVectors * kWgradOrbits / kWgradChannels;
  static_assert(kVectors * Kernel::kLines == kWgradTeamThreads, "a thread for every vector of a position");
  static constexpr int kPairs = (Kernel::kCopies + 1) / 2;  // of copies, at most
  static constexpr uint32_t kPoints = 1u << 6;
  static constexpr bool kKeepsPair = kPairs == 2 && Kernel::kRolling;  // registers are left for that

  int source, result;   // at the first tap of the line's first point, and at that point
  int second_pair = 0;  // of copies, from the first one: if kKeepsPair
  int first_column;
  uint32_t inside;  // what the thread has channels of: the rows by plane and slot; and orbits: the points

  // Of the copies of a pair, from the first of all, the one that a vector of a row lies in.
  static __device__ __forceinline__ int copy_offset(const WgradArguments& q, int pair, int vector) {
    return q.copy[2 * pair + vector / kCopyVectors];
  }
  static __device__ __forceinline__ int row(int thread) { return thread / kVectors; }
  static __device__ __forceinline__ int vector(int thread) { return thread % kVectors; }

  __device__ __forceinline__ void start_line(const WgradArguments& q, const Taps& taps, int thread,
                                             int number) {
    const WgradPlace place(q);
    unsigned rest = static_cast<unsigned>(number * Kernel::kLines + row(thread));
    const bool exists = rest < static_cast<unsigned>(q.lines);
    const int segment = static_cast<int>(rest % static_cast<unsigned>(q.segments));
    rest /= static_cast<unsigned>(q.segments);
    const WgradAxis &rows = q.axis[1], &planes = q.axis[2];
    const int y = static_cast<int>(rest % static_cast<unsigned>(rows.output));
    rest /= static_cast<unsigned>(rows.output);
    const int z = static_cast<int>(rest % static_cast<unsigned>(planes.output));
    const int image = static_cast<int>(rest / static_cast<unsigned>(planes.output));
    const int first_row = y * rows.stride - rows.padding, first_plane = z * planes.stride - planes.padding;
    const int of_row = vector(thread);
    const int channel = place.channel * Kernel::kBytes / 16 + of_row,
              orbit = place.orbit * Kernel::kBytes / 16 + of_row % kCopyVectors;
    first_column = segment * q.length;
    source = static_cast<int>(blockIdx.y) * q.source_group + channel + image * q.source_image +
             first_plane * planes.source + first_row * rows.source;
    const int point = static_cast<int>(blockIdx.y) * q.result_group + orbit + image * q.result_image +
                      z * planes.result + y * rows.result;
    result = point;
    if constexpr (kKeepsPair) {
      result += copy_offset(q, 0, of_row);
      second_pair = copy_offset(q, 1, of_row) - copy_offset(q, 0, of_row);
    }
    inside = exists && orbit < q.result_vectors ? kPoints : 0;
    const bool has_channels = exists && channel < q.source_vectors;
#pragma unroll
    for (int p = 0; p < Kernel::kPlanes; ++p) {
      const int plane = first_plane + taps.plane_tap(p) * planes.dilation;
#pragma unroll
      for (int slot = 0; slot < 3; ++slot) {
        const int at = first_row + taps.rows.tap[slot] * rows.dilation;
        if (has_channels && plane >= 0 && plane < planes.input && at >= 0 && at < rows.input)
          inside |= 1u << (3 * p + slot);
      }
    }
  }

  // Starts the copies of the taps for step `at` of the line to a column of a stage: of all columns, or of the
  // last one.
  __device__ __forceinline__ void start_taps(const WgradArguments& q, const Taps& taps, int thread,
                                             SharedAddress to, int at) const {
    const WgradAxis& columns = q.axis[0];
    const int first = Kernel::kRolling ? first_column + at + (2 - columns.padding)
                                       : (first_column + at) * columns.stride - columns.padding;
    to += static_cast<uint32_t>(Kernel::kResultBytes + row(thread) * Kernel::kPositionPitch +
                                vector(thread) * 16);
#pragma unroll
    for (int p = 0; p < Kernel::kPlanes; ++p) {
      if (p == 1 && !taps.paired) break;
      const int plane = source + taps.plane_tap(p) * q.axis[2].tap;
      const Word4* rolled = q.source + (plane + first * columns.source);
      if constexpr (Kernel::kRolling) rolled = keep_here(rolled);
#pragma unroll
      for (int slot = 0; slot < 3; ++slot) {
        if (!taps.rows.has(slot)) continue;
        const int line = taps.rows.tap[slot] * q.axis[1].tap;
#pragma unroll
        for (int column = 0; column < (Kernel::kRolling ? 1 : 3); ++column) {
          if (!taps.columns.has(column)) continue;
          const int x = first + (Kernel::kRolling ? 0 : taps.columns.tap[column] * columns.dilation);
          const uint32_t valid = x >= 0 && x < columns.input ? inside : 0;
          const Word4* from =
              Kernel::kRolling ? rolled + line : q.source + (plane + line + x * columns.source);
          copy_async<16>(to, from, valid & 1u << (3 * p + slot));
          to += Kernel::kPositionBytes;
        }
      }
    }
  }

  // Starts the copies of grad_output at step `at` of the line.
  __device__ __forceinline__ void start_points(const WgradArguments& q, int thread, SharedAddress to,
                                               int at) const {
    const uint32_t valid = first_column + at < q.axis[0].output ? inside & kPoints : 0;
    const int from = result + (first_column + at) * q.axis[0].result;
    const Word4* first = q.result + from;
    if constexpr (kKeepsPair) first = keep_here(first);
    to += static_cast<uint32_t>(row(thread) * Kernel::kResultPitch + vector(thread) * 16);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      if (Kernel::kCopies == 1 && vector(thread) >= kCopyVectors) return;
      const Word4* of_pair = kKeepsPair ? first + (pair == 0 ? 0 : second_pair)
                                        : q.result + (from + copy_offset(q, pair, vector(thread)));
      copy_async<16>(to + pair * kVectors * 16, of_pair, valid);
    }
  }
};

}  // namespace symconv::cuda
