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
// of taps a step (`Rolling`): the columns before it are still in registers, folded along the second axis. A
// column stays where it is until it is the first of three and makes room for the next one, so the code of a
// column is there three times. Each warp has 32 orbits and 16 of the 64 channels. The teams of a thread block
// and the splits of a problem have shares of the lines; the teams' sums are added in shared memory, and those
// of the splits, which go to scratch memory, by a second kernel, always in the same order.
//
// Counted on paper, for 9 coefficients of hv in a half type, for a warp and a step:
// - mma: 36, which are 288 cycles of a tensor core, so 72 wavefronts for each of 4 warps
// - grad_output: 4 copies x 2 ldmatrix.x4, 32 wavefronts
// - taps: 3 rows x 1 ldmatrix.x4, 12 wavefronts, and as many for each of 2 columns before a line
// - copies: 4 KiB and 3 x 2 KiB for a team, 8 and 12 wavefronts for each of its warps
// - others: 64 for the butterfly, 8 + 24 for the fold; in float16, 16 + 8 more for their halves
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
  static constexpr int kPairBytes = wgrad_pair_bytes(kBytes, kCopies),  // of two copies
      kResultPitch = kPairBytes / kLines, kResultBytes = wgrad_result_bytes(kBytes, kCopies);
  static constexpr int kPositionBytes = wgrad_position_bytes(kBytes),
                       kPositionPitch = kPositionBytes / kLines;
  static __device__ __forceinline__ constexpr uint32_t copy_place(int copy) {  // in a column
    return static_cast<uint32_t>(copy / 2 * kPairBytes + copy % 2 * kWgradOrbits * kBytes);
  }
  static __device__ __forceinline__ uint32_t column_bytes(const WgradArguments& q) {
    return Rolling && Axes < 3 ? kResultBytes + 3 * kPositionBytes : static_cast<uint32_t>(q.column_bytes);
  }
  using Column = Value[3][4];         // by the slot along the rows
  using Sums = float[3][3][2][2][4];  // by the slots along rows and columns, 16 orbits, 8 channels
  static_assert(sizeof(Sums) == kWgradSums * 16, "what the teams exchange");

  // Loads the rows of a column of taps from the positions at `first` and folds them along the planes and the
  // rows. The halves of the fold along the columns are taken here, once for the steps that share the column.
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
    if constexpr (Axes >= 1) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        if constexpr (Axes >= 2) {
          Element::template fold<2>(column[0][r], column[2][r]);
        } else {
          column[0][r] = column[0][r].halved();
          column[2][r] = column[2][r].halved();
        }
        column[1][r] = column[1][r].halved();
      }
    }
  }

  // The slots of 16 orbits, by parity along columns and rows, from all their copies.
  static __device__ __forceinline__ void load_slots(uint32_t (&slots)[kSlots][4], const Taps& taps,
                                                    SharedAddress copies) {
    Value values[4][kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      uint32_t raw[4];
      Load::template a<kResultPitch>(raw, copies + copy_place(s));
#pragma unroll
      for (int r = 0; r < 4; ++r) values[r][s] = Element::template value<Axes == 3 ? 3 : 0>(raw[r]);
      if constexpr (Axes == 3) {
        Load::template a<kResultPitch>(raw, copies + copy_place(s + kSlots));
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
  static __device__ __forceinline__ void multiply(Sums& sums, const Taps& taps, const Column& column0,
                                                  const Column& column1, const Column& column2,
                                                  SharedAddress copies, bool second) {
    uint32_t folded[3][3][4];
#pragma unroll
    for (int row = 0; row < 3; ++row) {
      if (!taps.rows.has(row)) continue;
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        Value first = column0[row][r], last = column2[row][r];
        if constexpr (Axes >= 1) fold_plain(first, last);
        folded[row][0][r] = first.operand();
        folded[row][1][r] = column1[row][r].operand();
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
  const int teams = static_cast<int>(blockDim.x) / kWgradTeamThreads;
  using Taps = typename Kernel::Taps;
  using Fetch = WgradFetch<Kernel>;
  const WgradPlace place(q);
  const SharedAddress stage0 = shared_address(memory);
  WgradWalk<Rolling> walk(q, static_cast<int>(blockIdx.z));
  Fetch lines;

  // Where a thread's copies go in the next column, and where a lane finds its operands in the next one. The
  // stages of a team follow one another.
  SharedAddress to, a, b;
  // Kept beside the flags of the lines, as no registers are left.
  constexpr uint32_t kHasChannels = Fetch::kRows + 1, kHasSecond = 2 * kHasChannels,
                     kSecondStage = 4 * kHasChannels;
  {
    const int thread = static_cast<int>(threadIdx.x) % kWgradTeamThreads, lane = lane_id(),
              warp = thread / kWarpSize, team = static_cast<int>(threadIdx.x) / kWgradTeamThreads;
    const SharedAddress of_team = stage0 + static_cast<uint32_t>(team * kWgradStages * q.stage_bytes);
    to = of_team + Fetch::destination(thread);
    a = of_team + static_cast<uint32_t>(Load::a_row(lane) * Kernel::kResultPitch +
                                        Load::a_column(lane) * Kernel::kBytes);
    b = of_team + static_cast<uint32_t>(Kernel::kResultBytes + Load::b_row(lane) * Kernel::kPositionPitch +
                                        (warp * 16 + Load::b_column(lane)) * Kernel::kBytes);
    lines.flags = (place.channel + warp * 16 < q.channels ? kHasChannels : 0) |
                  (place.orbit + 16 < q.orbits ? kHasSecond : 0);
  }

  // Starts the copies of a stage of this team. Returns as bits which of its columns complete a step, and one
  // more behind the last column.
  auto fetch = [&] {
    const Taps taps(q, place);
    const uint32_t end = 1u << walk.next_stage(q);
    uint32_t complete = end;
#pragma unroll 1
    for (uint32_t column = 1; column < end; column <<= 1) {
      if (walk.at_start()) {
        const unsigned here = static_cast<unsigned>(keep_here(static_cast<int>(threadIdx.x)));
        const int number = walk.line * teams + static_cast<int>(here / kWgradTeamThreads);
        lines.start_line(q, static_cast<int>(here % kWgradTeamThreads), number, walk.start_line(q));
      }
      lines.start_taps(q, taps, to);
      if (walk.at_step()) {
        lines.start_points(q, to, walk.of_line);
        complete |= column;
      }
      lines.advance(q);
      --walk.of_line;
      to += Kernel::column_bytes(q);
    }
    copy_commit();
    return complete;
  };

  typename Kernel::Sums sums = {};
  using Column = typename Kernel::Column;
  Column window[3] = {};
  int turn = 2;  // whose turn it is in the window to be the next column
  uint32_t complete = fetch();
#pragma unroll 1
  while (complete > 1) {
    copy_wait<0>();
    block_barrier();  // the stage is there, and the other one may be overwritten
    uint32_t rest = lines.flags & kHasChannels ? complete : 1;
    complete = fetch();
    // Adds the next column, which with the two before it completes a step or not.
    auto add_column = [&](Column& first, Column& middle, Column& last) {
      const Taps taps(q, place);
      if constexpr (Rolling) {
        Kernel::load_column(last, taps, b, 2);
      } else {
#pragma unroll
        for (int slot = 0; slot < 3; ++slot) {
          Column& column = slot == 0 ? first : slot == 1 ? middle : last;
#pragma unroll
          for (int i = 0; i < 12; ++i)
            column[i / 4][i % 4] = {};  // so that nothing is kept from the step before
          if (taps.columns.has(slot)) Kernel::load_column(column, taps, b, slot);
        }
      }
      if (rest & 1) Kernel::multiply(sums, taps, first, middle, last, a, lines.flags & kHasSecond);
      if constexpr (Rolling) forget(first);
    };
#pragma unroll 1
    for (; rest > 1; rest >>= 1) {
      if (!Rolling || turn == 2) {
        add_column(window[0], window[1], window[2]);
        turn = 0;
      } else if (turn == 0) {
        add_column(window[1], window[2], window[0]);
        turn = 1;
      } else {
        add_column(window[2], window[0], window[1]);
        turn = 2;
      }
      a += Kernel::column_bytes(q);
      b += Kernel::column_bytes(q);
    }
    // Back to the first stage: where operands lie after the second one, and where copies go after the first.
    lines.flags ^= kSecondStage;
    const uint32_t stages = static_cast<uint32_t>(kWgradStages * q.stage_bytes),
                   back = lines.flags & kSecondStage ? 0 : stages;
    a -= back;
    b -= back;
    to -= stages - back;
  }
  copy_wait<0>();
  block_barrier();  // before the stages are overwritten

  // The second team hands its sums to the first.
  const unsigned of_block = static_cast<unsigned>(keep_here(static_cast<int>(threadIdx.x)));
  const int thread = static_cast<int>(of_block % kWgradTeamThreads),
            team = static_cast<int>(of_block / kWgradTeamThreads), lane = thread % kWarpSize,
            warp = thread / kWarpSize;
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
  const int orbit = here.orbit + lane / 4, channel = here.channel + warp * 16 + lane % 4 * 2;
  float* const first = q.partial + static_cast<int64_t>(blockIdx.z) * q.split_size +
                       blockIdx.y * q.group_size + static_cast<int64_t>(orbit) * q.channel_pitch + channel;
  each_sum([&](int row, int column, int m, int n, const float (&sum)[4], SharedAddress at) {
    const WgradSum other = teams > 1 ? load_shared<WgradSum>(at) : WgradSum{};
    const int tap = taps.plane * q.axis[2].coefficient + taps.rows.tap[row] * q.axis[1].coefficient +
                    taps.columns.tap[column] * q.axis[0].coefficient;
    // The halves of the fold along the columns stand on the middle tap, too.
    const float scale = Kernel::Element::kHalvesOnPatch && Axes >= 1 && column == 1 ? 2.0f : 1.0f;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int more = m * 16 + half * 8;
      const WgradPair pair{{scale * (sum[2 * half] + other.values[2 * half]),
                            scale * (sum[2 * half + 1] + other.values[2 * half + 1])}};
      store_global(keep_here(first) + (static_cast<int64_t>(tap) * q.orbits + more) * q.channel_pitch + n * 8,
                   pair, orbit + more < q.orbits && channel + n * 8 < q.channels);
    }
  });
}

}  // namespace symconv::cuda
