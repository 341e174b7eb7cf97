// Weight gradient of a convolution with a tied result, on tensor cores.
//
// The gradient of a coefficient of orbit r and source channel c is the sum over the result's points of the
// slot of its parity times the folded taps: M = orbits, N = source channels, K = points. All coefficients of
// a 3 x 3 block of taps are computed together, so that both operands are made once for nine products: the
// slots from grad_output itself, the fold from the raw taps, both in registers between ldmatrix and mma.
// Larger kernels are cut into such blocks, one a thread block: along a folded axis the middle tap and a pair
// of mirrored taps, or a pair; along another axis three taps. Of a third axis a thread block takes one
// coefficient.
//
// A step of K is 16 points (8 in tf32) of as many lines; a line goes along the first axis, and a team of four
// warps goes along its lines point by point. With three taps at stride 1 that axis needs one new column of
// taps a step (`Rolling`): the columns before it are still in registers, folded along the second axis. Each
// warp has 32 orbits and 16 of the 64 channels. The teams of a block and the splits of a problem have shares
// of the points; the teams' sums are added in shared memory and those of the splits, which go to scratch
// memory, by a second kernel, always in the same order.
//
// For hv, half types, 9 coefficients and a step, counted on paper for a warp:
//     mma           36                        288 cycles of a tensor core: 72 wavefronts for each of 4 warps
//     grad_output   4 copies x 2 ldmatrix.x4  32 wavefronts
//     taps          3 rows x 1 ldmatrix.x4    12 wavefronts, and as many for the 2 columns before a line
//     copies        a team's 2 KiB x 2 + 3 x 2 KiB, on four warps: 8 + 12 wavefronts
//     registers     144 sums, 36 columns, 32 slots, 8 folded taps
//     others        64 butterfly, 8 + 24 fold, 24 to move the columns on
//
// Shared memory: [stage 0][stage 1], later the sums of the teams but the first; a stage has for every team
// its columns, and a column is a row of all copies of the orbits for every line, then for every position of
// the taps a row of channels for every line. A pad leads neighbouring rows to different banks.
#pragma once

#include "../common/fold.h"
#include "convolution.h"
#include "elements.cuh"
#include "packed_source.h"
#include "tap_orbits.h"
#include "tile_elements.cuh"

namespace symconv::cuda {

constexpr int kWgradOrbits = 32, kWgradChannels = 64;  // of a thread block
constexpr int kWgradTeamThreads = 4 * kWarpSize, kWgradTeams = 2;
constexpr int kWgradStages = 2;
// Lines of a team: the points of one step.
SYMCONV_HD constexpr int wgrad_lines(int element_bytes) { return element_bytes == 2 ? 16 : 8; }
// 16 bytes more make eight neighbouring rows start in different banks (ldmatrix), 32 bytes more make the
// words of four neighbours lie in different banks (tf32, read word by word).
SYMCONV_HD constexpr int wgrad_pad(int element_bytes) { return element_bytes == 2 ? 16 : 32; }
// Bytes of all copies of the orbits at a point of each line, and of the channels at a position of each line.
SYMCONV_HD constexpr int wgrad_result_bytes(int element_bytes, int copies) {
  return wgrad_lines(element_bytes) * (copies * kWgradOrbits * element_bytes + wgrad_pad(element_bytes));
}
SYMCONV_HD constexpr int wgrad_position_bytes(int element_bytes) {
  return wgrad_lines(element_bytes) * (kWgradChannels * element_bytes + wgrad_pad(element_bytes));
}
constexpr int kWgradSums = 9 * 2 * 2;  // of a warp, 16 orbits by 8 channels each
constexpr int kWgradTeamSumBytes = kWgradSums * 16 * kWgradTeamThreads;

// One spatial axis.
struct WgradAxis {
  int kernel, stride, padding, dilation, input, output;
  int coefficient;     // from one tap to the next, in the order of the partial sums
  int source, result;  // from one point to the next, in the 16 bytes that a thread copies
};

// Up to three taps of an axis that a thread block takes. Folded, slots 0 and 2 have a pair (then its sum and
// its difference) and slot 1 the middle tap.
struct TapSlots {
  int present = 7;  // as bits
  int tap[3] = {0, 1, 2};

  TapSlots() = default;
  SYMCONV_HD TapSlots(int kernel, bool folded, int number) {
    const int second = kernel - 1 - number, three = 3 * number;
    present = folded ? (number < kernel / 2 ? 5 : 0) | (number == 0 && kernel % 2 == 1 ? 2 : 0)
                     : (kernel - three >= 3 ? 7 : (1 << (kernel - three)) - 1);
    tap[0] = folded ? number : three;
    tap[1] = folded ? kernel / 2 : three + 1;
    tap[2] = folded ? second : three + 2;
  }
  SYMCONV_HD bool has(int slot) const { return present >> slot & 1; }
  SYMCONV_HD int before(int slot) const {
    return (slot > 0 ? present & 1 : 0) + (slot > 1 ? present >> 1 & 1 : 0);
  }
  SYMCONV_HD int count() const { return before(2) + (present >> 2); }
  // How many an axis is cut into; the first one has the most taps.
  static SYMCONV_HD int numbers(int kernel, bool folded) {
    return folded ? (kernel < 4 ? 1 : kernel / 2) : (kernel + 2) / 3;
  }
};

struct WgradArguments {
  WgradAxis axis[kAxes];        // the folded ones first: columns, rows, planes
  int lines, segments, length;  // lines of points; how many the columns are cut into, and steps of each
  int steps, split_steps;       // of all lines; of one split
  // Distances in 16 bytes.
  const Word4 *source, *result;  // result: grad_output
  int source_image, source_group, result_image, result_group;
  int source_vectors, result_vectors;  // of all channels, of one copy of the orbits
  int copy[kMaxOrbit];  // of the first orbit's mirror images, by reflection along the axes as above
  int orbits, channels;
  int orbit_tiles, channel_tiles, column_slots, row_slots;
  int stage_columns, column_bytes, stage_bytes;
  float* partial;  // [split][group][tap][orbit][channel]
  int channel_pitch;
  int64_t split_size, group_size;
};

// What a thread block computes: its first orbit and channel, and which slots of which tap along the planes.
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
    columns = next(q.column_slots);
    rows = next(q.row_slots);
    plane = static_cast<int>(rest);
  }
};

// Four registers of operands that lie with K along the rows: those of A for 16 orbits, or of B for two groups
// of 8 channels.
template <typename T>
struct TransposedLoad {
  // The row (0..15) and the column that this lane gives to ldmatrix.
  static __device__ __forceinline__ int a_row(int lane) { return lane / 16 * 8 + lane % 8; }
  static __device__ __forceinline__ int a_column(int lane) { return lane / 8 % 2 * 8; }
  static __device__ __forceinline__ int b_row(int lane) { return lane / 8 % 2 * 8 + lane % 8; }
  static __device__ __forceinline__ int b_column(int lane) { return lane / 16 * 8; }

  template <int Pitch>
  static __device__ __forceinline__ void a(uint32_t (&r)[4], SharedAddress at) {
    load_matrices_transposed<4>(r, at);
  }
  template <int Pitch>
  static __device__ __forceinline__ void b(uint32_t (&r)[4], SharedAddress at) {
    load_matrices_transposed<4>(r, at);
  }
};

// tf32 words cannot be transposed by ldmatrix: lane 4 g + t reads orbit (or channel) g of points t and t + 4
// itself.
template <>
struct TransposedLoad<TensorFloat32> {
  static __device__ __forceinline__ int a_row(int lane) { return lane % 4; }
  static __device__ __forceinline__ int a_column(int lane) { return lane / 4; }
  static __device__ __forceinline__ int b_row(int lane) { return lane % 4; }
  static __device__ __forceinline__ int b_column(int lane) { return lane / 4; }

  template <int Pitch>
  static __device__ __forceinline__ void a(uint32_t (&r)[4], SharedAddress at) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = load_shared<uint32_t>(at + i / 2 * 4 * Pitch + i % 2 * 32);
  }
  template <int Pitch>
  static __device__ __forceinline__ void b(uint32_t (&r)[4], SharedAddress at) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = load_shared<uint32_t>(at + i % 2 * 4 * Pitch + i / 2 * 32);
  }
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

template <typename T, int Axes, bool Rolling>
struct Wgrad {
  using Element = TileElement<T>;
  using Value = typename Element::Value;
  using Storage = typename Element::Storage;
  using Load = TransposedLoad<T>;
  using Taps = WgradTaps<Axes, Rolling>;
  static constexpr int kBytes = sizeof(Storage), kLines = wgrad_lines(kBytes);
  static constexpr bool kRolling = Rolling;
  static constexpr int kPlanes = Axes == 3 ? 2 : 1;       // of taps, at most
  static constexpr int kCopies = 1 << Axes;               // filters of an orbit
  static constexpr int kSlots = Axes == 3 ? 4 : kCopies;  // that one coefficient of the third axis needs
  static constexpr int kResultBytes = wgrad_result_bytes(kBytes, kCopies),
                       kResultPitch = kResultBytes / kLines;
  static constexpr int kPositionBytes = wgrad_position_bytes(kBytes),
                       kPositionPitch = kPositionBytes / kLines;
  using Column = Value[3][4];         // by the slot along the rows
  using Sums = float[3][3][2][2][4];  // by the slots along rows and columns, 16 orbits, 8 channels
  static_assert(sizeof(Sums) == kWgradSums * 16, "what the teams exchange");

  // Loads the rows of a column of taps from the positions at `first` and folds them along the planes and the
  // rows.
  static __device__ __forceinline__ void load_column(Column& column, const Taps& taps, SharedAddress first,
                                                     int slot) {
#pragma unroll
    for (int row = 0; row < 3; ++row) {
      if (!taps.rows.has(row)) continue;
      const SharedAddress from = first + static_cast<uint32_t>(taps.position(row, slot) * kPositionBytes);
      uint32_t raw[4];
      Load::template b<kPositionPitch>(raw, from);
#pragma unroll
      for (int r = 0; r < 4; ++r) column[row][r] = Element::template value<0>(raw[r]);
      if (taps.paired) {
        Load::template b<kPositionPitch>(raw,
                                         from + static_cast<uint32_t>(taps.positions() * kPositionBytes));
        const uint32_t factor = Element::factor(taps.odd ? -1 : 1, 1);
#pragma unroll
        for (int r = 0; r < 4; ++r) column[row][r] = column[row][r].halved().plus(raw[r], factor);
      }
    }
    if constexpr (Axes >= 2) {
#pragma unroll
      for (int r = 0; r < 4; ++r) fold(column[0][r], column[2][r]);
    }
  }

  // A pair of taps becomes its sum and its difference.
  static __device__ __forceinline__ void fold(Value& first, Value& second) {
    Value pair[2] = {first.halved(), second.halved()};
    hadamard<2>(pair);
    first = pair[0];
    second = pair[1];
  }

  // The slots of 16 orbits, by parity along columns and rows, from all their copies.
  static __device__ __forceinline__ void load_slots(uint32_t (&slots)[kSlots][4], const Taps& taps,
                                                    SharedAddress copies) {
    Value values[4][kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      uint32_t raw[4];
      Load::template a<kResultPitch>(raw, copies + s * kWgradOrbits * kBytes);
#pragma unroll
      for (int r = 0; r < 4; ++r) values[r][s] = Element::template value<Axes>(raw[r]);
      if constexpr (Axes == 3) {
        Load::template a<kResultPitch>(raw, copies + (s + kSlots) * kWgradOrbits * kBytes);
        const uint32_t factor = Element::factor(taps.odd ? -1 : 1, Axes);
#pragma unroll
        for (int r = 0; r < 4; ++r) values[r][s] = values[r][s].plus(raw[r], factor);
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      hadamard<kSlots>(values[r]);
#pragma unroll
      for (int s = 0; s < kSlots; ++s) slots[s][r] = values[r][s].operand();
    }
  }

  // Adds one step: the folded taps of three columns by the slots of 32 orbits, or of 16 without the `second`
  // ones. The branch also keeps the compiler from loading their slots ahead into registers that are not
  // there.
  static __device__ __forceinline__ void multiply(Sums& sums, const Taps& taps, const Column (&window)[3],
                                                  SharedAddress copies, bool second) {
    uint32_t folded[3][3][4];
#pragma unroll
    for (int row = 0; row < 3; ++row) {
      if (!taps.rows.has(row)) continue;
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        Value first = window[0][row][r], last = window[2][row][r];
        if constexpr (Axes >= 1) fold(first, last);
        folded[row][0][r] = first.operand();
        folded[row][1][r] = window[1][row][r].operand();
        folded[row][2][r] = last.operand();
      }
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      if (m > 0 && !second) break;
      uint32_t slots[kSlots][4];
      load_slots(slots, taps, copies + m * 16 * kBytes);
#pragma unroll
      for (int row = 0; row < 3; ++row) {
#pragma unroll
        for (int column = 0; column < 3; ++column) {
          if (!taps.rows.has(row) || !taps.columns.has(column)) continue;
          const int slot = (Axes >= 1 && column == 2 ? 1 : 0) + (Axes >= 2 && row == 2 ? 2 : 0);
          const uint32_t (&b)[4] = folded[row][column];
          const uint32_t low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
          mma<T>(sums[row][column][m][0], slots[slot], low);
          mma<T>(sums[row][column][m][1], slots[slot], high);
        }
      }
    }
  }
};

// A lane's share of 16 orbits by 8 channels of sums, and two neighbouring channels of it.
struct alignas(16) WgradSum {
  float values[4];
};
struct alignas(8) WgradPair {
  float values[2];
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

template <typename T, int Axes, bool Rolling>
__global__ void __launch_bounds__(kWgradTeams* kWgradTeamThreads, 1) wgrad_kernel(const WgradArguments q) {
  using Kernel = Wgrad<T, Axes, Rolling>;
  using Load = typename Kernel::Load;
  SYMCONV_DYNAMIC_SHARED(memory);
  const int thread = static_cast<int>(threadIdx.x) % kWgradTeamThreads, lane = lane_id(),
            warp = thread / kWarpSize;
  const int team = static_cast<int>(threadIdx.x) / kWgradTeamThreads,
            teams = static_cast<int>(blockDim.x) / kWgradTeamThreads;

  using Taps = typename Kernel::Taps;
  const WgradPlace place(q);
  const SharedAddress stage0 = shared_address(memory);
  const SharedAddress team_stage = stage0 + static_cast<uint32_t>(team * q.stage_columns * q.column_bytes);
  const bool has_channels = place.channel + warp * 16 < q.channels;
  const bool second = place.orbit + 16 < q.orbits;
  WgradFetch<Kernel> lines;
  WgradWalk<Rolling> walk(q, static_cast<int>(blockIdx.z));

  // Starts the copies of a stage of this team; returns which of its columns complete a step.
  auto fetch = [&](uint32_t stage) {
    const int thread = keep_here(static_cast<int>(threadIdx.x)) % kWgradTeamThreads;
    const Taps taps(q, place);
    uint32_t complete = 0;
    SharedAddress to = team_stage + stage;
#pragma unroll 1
    for (int c = 0; c < q.stage_columns && walk.left > 0; ++c) {
      if (walk.at_start() || !(lines.inside & lines.kStarted))
        lines.start_line(q, taps, thread, walk.line * teams + team);
      lines.start_taps(q, taps, thread, to + Kernel::kResultBytes, walk.at,
                       WgradWalk<Rolling>::kAhead - walk.missing);
      if (walk.missing == 0) {
        lines.start_points(q, thread, to, walk.at);
        complete |= 1u << c;
      }
      walk.advance(q);
      to += static_cast<uint32_t>(q.column_bytes);
    }
    copy_commit();
    return complete;
  };

  typename Kernel::Sums sums = {};
  typename Kernel::Column window[3] = {};
  uint32_t stage = 0;  // its offset in shared memory
  int columns = walk.columns(q);
  uint32_t next = fetch(stage);
#pragma unroll 1
  for (; columns > 0; columns -= q.stage_columns) {
    copy_wait<0>();
    block_barrier();  // the stage is there, and the other one may be overwritten
    uint32_t complete = has_channels ? next : 0;
    next = fetch(static_cast<uint32_t>(q.stage_bytes) - stage);
    const int at = keep_here(lane);
    SharedAddress a = team_stage + stage +
                      static_cast<uint32_t>(Load::a_row(at) * Kernel::kResultPitch +
                                            Load::a_column(at) * Kernel::kBytes),
                  b = team_stage + stage +
                      static_cast<uint32_t>(Kernel::kResultBytes + Load::b_row(at) * Kernel::kPositionPitch +
                                            (warp * 16 + Load::b_column(at)) * Kernel::kBytes);
#pragma unroll 1
    for (int c = 0; c < q.stage_columns; ++c) {
      const Taps taps(q, place);
      if constexpr (Rolling) {
#pragma unroll
        for (int row = 0; row < 3; ++row) {
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            window[0][row][r] = window[1][row][r];
            window[1][row][r] = window[2][row][r];
          }
        }
        Kernel::load_column(window[2], taps, b, 2);
      } else {
#pragma unroll
        for (int slot = 0; slot < 3; ++slot) {
#pragma unroll
          for (int i = 0; i < 12; ++i)
            window[slot][i / 4][i % 4] = {};  // so that nothing is kept from the step before
          if (taps.columns.has(slot)) Kernel::load_column(window[slot], taps, b, slot);
        }
      }
      if (complete & 1) Kernel::multiply(sums, taps, window, a, second);
      complete >>= 1;
      a += static_cast<uint32_t>(q.column_bytes);
      b += static_cast<uint32_t>(q.column_bytes);
    }
    stage = static_cast<uint32_t>(q.stage_bytes) - stage;
  }
  copy_wait<0>();
  block_barrier();  // before the stages are overwritten

  // The second team hands its sums to the first.
  const Taps taps(q, place);
  auto each_sum = [&](auto&& visit) {
    SharedAddress at = stage0 + static_cast<uint32_t>(thread * 16);
#pragma unroll
    for (int row = 0; row < 3; ++row) {
#pragma unroll
      for (int column = 0; column < 3; ++column) {
        if (!taps.rows.has(row) || !taps.columns.has(column)) continue;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          visit(row, column, i / 2, i % 2, sums[row][column][i / 2][i % 2], at);
          at += 16 * kWgradTeamThreads;
        }
      }
    }
  };
  if (team > 0) {
    each_sum([&](int, int, int, int, const float (&sum)[4], SharedAddress at) {
      store_shared(at, WgradSum{{sum[0], sum[1], sum[2], sum[3]}});
    });
  }
  block_barrier();
  if (team > 0) return;
  const WgradPlace here(q);
  float* partial = q.partial + static_cast<int64_t>(blockIdx.z) * q.split_size + blockIdx.y * q.group_size;
  each_sum([&](int row, int column, int m, int n, const float (&sum)[4], SharedAddress at) {
    const WgradSum other = teams > 1 ? load_shared<WgradSum>(at) : WgradSum{};
    const int tap = taps.plane * q.axis[2].coefficient + taps.rows.tap[row] * q.axis[1].coefficient +
                    taps.columns.tap[column] * q.axis[0].coefficient;
    const int channel = here.channel + warp * 16 + n * 8 + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int orbit = here.orbit + m * 16 + half * 8 + lane / 4;
      const WgradPair pair{
          {sum[2 * half] + other.values[2 * half], sum[2 * half + 1] + other.values[2 * half + 1]}};
      store_global(partial + (static_cast<int64_t>(tap) * q.orbits + orbit) * q.channel_pitch + channel, pair,
                   orbit < q.orbits && channel < q.channels);
    }
  });
}

constexpr int kReduceThreads = 128;

struct WgradReduction {
  const float* partial;
  int splits;
  int64_t split_size, group_size;
  TapOrbits taps;
  int64_t orbits, channels, channel_pitch,
      numbers;  // numbers: tap orbits of the block's gradient in all groups
  WeightView weight;
  float slot_scale;  // what the slots were multiplied with
  Divisor channel, orbit, tap_orbit;
};

// One thread for the mirrored taps of an orbit and a channel: adds the splits of their coefficients in order
// and unfolds them. The coefficient of parity p of tap t lies where t is when it is mirrored by p.
template <typename T>
__global__ void __launch_bounds__(kReduceThreads, 4) wgrad_reduce_kernel(WgradReduction s) {
  using Storage = typename TileElement<T>::Storage;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kReduceThreads + threadIdx.x;
  if (i >= s.numbers) return;
  int64_t channel = i;
  int64_t orbit = s.channel.divide(channel);
  int64_t index = s.orbit.divide(orbit);
  const int64_t group = s.tap_orbit.divide(index);
  int unused = 0;
  const Coefficient c = s.taps.coefficient(0, static_cast<int>(index), unused);
  auto mirrored = [&](int g, int d) {
    return static_cast<int>(g & axis_bit(d) ? s.taps.kernel[d] - 1 - c.tap[d] : c.tap[d]);
  };

  float values[kMaxOrbit] = {};
#pragma unroll
  for (int j = 0; j < kMaxOrbit; ++j) {
    if (j >= c.terms()) continue;
    const int g = subset(c.paired, j);
    int tap = 0;
    for (int d = 0; d < kAxes; ++d) tap = tap * s.taps.kernel[d] + mirrored(g, d);
    const float* from =
        s.partial + group * s.group_size + (tap * s.orbits + orbit) * s.channel_pitch + channel;
    for (int split = 0; split < s.splits; ++split) values[j] += from[split * s.split_size];
  }
  hadamard<kMaxOrbit>(values);
  const float scale = s.slot_scale * (TileElement<T>::kHalvesOnPatch ? 1.0f : static_cast<float>(c.terms()));
#pragma unroll
  for (int j = 0; j < kMaxOrbit; ++j) {
    if (j >= c.terms()) continue;
    const int g = subset(c.paired, j);
    int64_t offset = group * s.weight.group + orbit * s.weight.result + channel * s.weight.source;
    for (int d = 0; d < kAxes; ++d) offset += mirrored(g, d) * s.weight.tap[d];
    static_cast<Storage*>(s.weight.data)[offset] = Element<Storage>::store(values[j] / scale);
  }
}

}  // namespace symconv::cuda
