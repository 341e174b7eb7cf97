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

// A thread block's way along its lines: `left` steps of a split, each a column of points. At the start of a
// line come the columns that fill the registers.
template <bool Rolling>
struct WgradWalk {
  static constexpr int kAhead = Rolling ? 2 : 0;
  int left, line, at;  // lines of a thread block, and the step within them
  int missing = kAhead;

  __device__ __forceinline__ WgradWalk(const WgradArguments& q, int split) {
    const int first = split * q.split_steps, rest = q.steps - first;
    left = rest < 0 ? 0 : rest < q.split_steps ? rest : q.split_steps;
    line = first / q.length;
    at = first % q.length;
  }
  __device__ __forceinline__ int columns(const WgradArguments& q) const {
    return left == 0 ? 0 : left + kAhead * ((at + left - 1) / q.length + 1);
  }
  // Whether the next column starts a line.
  __device__ __forceinline__ bool at_start() const { return missing == kAhead && (Rolling || at == 0); }
  __device__ __forceinline__ void advance(const WgradArguments& q) {
    if (missing > 0) {
      --missing;
      return;
    }
    --left;
    if (++at == q.length) {
      at = 0;
      ++line;
      missing = kAhead;
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
  static constexpr uint32_t kExists = 1u << 6, kChannels = 1u << 7, kOrbits = 1u << 8, kStarted = 1u << 9;

  int source, result;  // at the first tap of the line's first point, and at that point
  int first_column;
  uint32_t inside = 0;  // the rows by plane and slot, the line, the thread's channels and orbits

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
    const int channel = place.channel * Kernel::kBytes / 16 + vector(thread),
              orbit = place.orbit * Kernel::kBytes / 16 + vector(thread) % kCopyVectors;
    first_column = segment * q.length;
    source = static_cast<int>(blockIdx.y) * q.source_group + channel + image * q.source_image +
             first_plane * planes.source + first_row * rows.source;
    result = static_cast<int>(blockIdx.y) * q.result_group + orbit + image * q.result_image +
             z * planes.result + y * rows.result;
    inside = kStarted | (exists ? kExists : 0) | (channel < q.source_vectors ? kChannels : 0) |
             (orbit < q.result_vectors ? kOrbits : 0);
#pragma unroll
    for (int p = 0; p < Kernel::kPlanes; ++p) {
      const int plane = first_plane + taps.plane_tap(p) * planes.dilation;
#pragma unroll
      for (int slot = 0; slot < 3; ++slot) {
        const int at = first_row + taps.rows.tap[slot] * rows.dilation;
        if (exists && plane >= 0 && plane < planes.input && at >= 0 && at < rows.input)
          inside |= 1u << (3 * p + slot);
      }
    }
  }

  // Starts the copies of the taps for step `at` of the line: of all columns, or of the `rolled`-th one.
  __device__ __forceinline__ void start_taps(const WgradArguments& q, const Taps& taps, int thread,
                                             SharedAddress to, int at, int rolled) const {
    if (!(inside & kChannels)) return;
    const WgradAxis& columns = q.axis[0];
    const int first = (first_column + at) * columns.stride - columns.padding;
    to += static_cast<uint32_t>(row(thread) * Kernel::kPositionPitch + vector(thread) * 16);
#pragma unroll
    for (int p = 0; p < Kernel::kPlanes; ++p) {
      if (p == 1 && !taps.paired) break;
      const int plane = source + taps.plane_tap(p) * q.axis[2].dilation * q.axis[2].source;
#pragma unroll
      for (int slot = 0; slot < 3; ++slot) {
        if (!taps.rows.has(slot)) continue;
        const int line = plane + taps.rows.tap[slot] * q.axis[1].dilation * q.axis[1].source;
#pragma unroll
        for (int column = 0; column < (Kernel::kRolling ? 1 : 3); ++column) {
          if (!taps.columns.has(column)) continue;
          const int x = first + (Kernel::kRolling ? rolled : taps.columns.tap[column] * columns.dilation);
          const bool valid = (inside >> (3 * p + slot) & 1) && x >= 0 && x < columns.input;
          copy_async<16>(to, valid ? q.source + (line + x * columns.source) : q.source, valid);
          to += Kernel::kPositionBytes;
        }
      }
    }
  }

  // Starts the copies of grad_output at step `at` of the line.
  __device__ __forceinline__ void start_points(const WgradArguments& q, int thread, SharedAddress to,
                                               int at) const {
    if (!(inside & kOrbits)) return;
    const bool valid = (inside & kExists) && first_column + at < q.axis[0].output;
    const int from = result + (first_column + at) * q.axis[0].result;
    to += static_cast<uint32_t>(row(thread) * Kernel::kResultPitch + vector(thread) * 16);
#pragma unroll
    for (int pair = 0; pair < (Kernel::kCopies + 1) / 2; ++pair) {
      const int copy = 2 * pair + vector(thread) / kCopyVectors;
      if (Kernel::kCopies == 1 && copy > 0) return;
      copy_async<16>(to + pair * kVectors * 16, valid ? q.result + (from + q.copy[copy]) : q.result, valid);
    }
  }
};

}  // namespace symconv::cuda
