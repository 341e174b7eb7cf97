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
// A step of K is a point of each of 16 lines (8 in tf32); a line goes along the first axis, and a team of
// four warps goes along its lines point by point. With three taps at stride 1 that axis needs one new column
// of taps a step (`Rolling`): the columns before it are still in registers, folded along the second axis.
// Each warp has 32 orbits and 16 of the 64 channels. The teams of a thread block and the splits of a problem
// have shares of the lines; the teams' sums are added in shared memory, and those of the splits, which go to
// scratch memory, by a second kernel, always in the same order.
//
// Counted on paper, for 9 coefficients of hv in a half type, for a warp and a step:
// - mma: 36, which are 288 cycles of a tensor core, so 72 wavefronts for each of 4 warps
// - grad_output: 4 copies x 2 ldmatrix.x4, 32 wavefronts
// - taps: 3 rows x 1 ldmatrix.x4, 12 wavefronts, and as many for each of 2 columns before a line
// - copies: 4 KiB and 3 x 2 KiB for a team, 8 and 12 wavefronts for each of its warps
// - others: 64 for the butterfly, 8 + 24 for the fold, 24 to move the columns on
// - registers: 144 sums, 24 columns that stay, 36 folded taps, of which 12 are among those, 16 slots
#pragma once

#include "tile_elements.cuh"
#include "wgrad_fetch.cuh"

namespace symconv::cuda {

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
  // Columns that are added together, so that the columns before move on in the registers once. A stage of
  // these kernels always has as many, of three positions.
  static constexpr int kColumns = Rolling && Axes < 2 ? 2 : 1;
  static constexpr bool kKeepsOperands = Rolling && (kBytes == 2 || kColumns == 2);
  static __device__ __forceinline__ uint32_t column_bytes(const WgradArguments& q) {
    return Rolling && Axes < 3 ? kResultBytes + 3 * kPositionBytes : static_cast<uint32_t>(q.column_bytes);
  }
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
      for (int r = 0; r < 4; ++r) Element::template fold<1>(column[0][r], column[2][r]);
    }
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
      for (int r = 0; r < 4; ++r) values[r][s] = Element::template value<Axes == 3 ? 3 : 0>(raw[r]);
      if constexpr (Axes == 3) {
        Load::template a<kResultPitch>(raw, copies + (s + kSlots) * kWgradOrbits * kBytes);
        const uint32_t factor = Element::factor(taps.odd ? -1 : 1, Axes);
#pragma unroll
        for (int r = 0; r < 4; ++r) values[r][s] = values[r][s].plus(raw[r], factor);
      }
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      if constexpr (Axes == 3) {
        hadamard<kSlots>(values[r]);
      } else {
        fold_all<Element>(values[r]);
      }
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
        if constexpr (Axes >= 1) Element::template fold<1>(first, last);
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
  const SharedAddress team_stage =
      stage0 + static_cast<uint32_t>(team * q.stage_columns) * Kernel::column_bytes(q);
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
    for (uint32_t column = 1; column < 1u << q.stage_columns && walk.left > 0; column <<= 1) {
      if (walk.at_start()) lines.start_line(q, taps, thread, walk.line++ * teams + team);
      lines.start_taps(q, taps, thread, to, walk.at);
      if (walk.at_step()) {
        lines.start_points(q, thread, to, walk.at);
        complete |= column;
      }
      walk.advance(q);
      to += Kernel::column_bytes(q);
    }
    copy_commit();
    return complete;
  };

  // Where a lane finds its operands in a column, two in a register, which is kept where one is left for that.
  auto find_operands = [warp](int lane) {
    const int a = Load::a_row(lane) * Kernel::kResultPitch + Load::a_column(lane) * Kernel::kBytes;
    const int b = Kernel::kResultBytes + Load::b_row(lane) * Kernel::kPositionPitch +
                  (warp * 16 + Load::b_column(lane)) * Kernel::kBytes;
    return a | b << 16;
  };
  const int kept = Kernel::kKeepsOperands ? keep_here(find_operands(lane)) : 0;

  typename Kernel::Sums sums = {};
  typename Kernel::Column window[3] = {};
  uint32_t stage = 0;  // its offset in shared memory
  int columns = walk.left;
  uint32_t next = fetch(stage);
#pragma unroll 1
  for (; columns > 0; columns -= q.stage_columns) {
    copy_wait<0>();
    block_barrier();  // the stage is there, and the other one may be overwritten
    uint32_t complete = has_channels ? next : 0;
    next = fetch(static_cast<uint32_t>(q.stage_bytes) - stage);
    const int operands = Kernel::kKeepsOperands ? kept : find_operands(keep_here(lane));
    SharedAddress a = team_stage + stage + static_cast<uint32_t>(operands & 0xffff),
                  b = team_stage + stage + static_cast<uint32_t>(operands >> 16);
    auto add_column = [&] {
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
      a += Kernel::column_bytes(q);
      b += Kernel::column_bytes(q);
    };
#pragma unroll 1
    for (int c = 0; c < q.stage_columns; c += Kernel::kColumns) {
#pragma unroll
      for (int i = 0; i < Kernel::kColumns; ++i) add_column();
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

}  // namespace symconv::cuda
