// Plans and launches of weight gradients.
#include <algorithm>

#include "../common/channel_map.h"
#include "launch.h"
#include "wgrad.h"
#include "wgrad_launch.h"

namespace symconv::cuda::wgrad_tiles {
namespace {

constexpr int64_t kMostShared = 99 * 1024;  // as in tied_result.cu
// What the points are split for: thread blocks that run at a time, one on each multiprocessor of an A100. A
// constant, so that the order of the sums depends on the problem alone.
constexpr int64_t kThreadBlocks = 108;
constexpr int64_t kLargest = int64_t{1} << 30;

// Everything about one block of orbits but pointers and what lies behind them.
struct BlockPlan {
  WgradArguments arguments;
  bool rolling;
  int teams, splits;
  int64_t parts;  // of the kernel, each a thread block for every tile of orbits and channels
  int64_t shared_bytes;
};

// The axes as the kernel takes them: the mask's first, and h before v before z.
void order_axes(int mask, int (&dims)[kAxes]) {
  int n = 0;
  for (int folded = 1; folded >= 0; --folded) {
    for (int d = kAxes - 1; d >= 0; --d) {
      if ((mask & axis_bit(d) ? 1 : 0) == folded) dims[n++] = d;
    }
  }
}

// Into how many segments the columns are cut, so that the fewest points of a step are none of the result's.
int choose_segments(int64_t lines, int64_t columns, int at_once) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int segments = 1; segments <= at_once; ++segments) {
    const int64_t steps = divide_up(lines * segments, at_once) * divide_up(columns, segments);
    if (steps < least) {
      least = steps;
      best = segments;
    }
  }
  return best;
}

// Teams and columns of a stage: the most that fit.
bool plan_stages(int copies, int64_t positions, int element_bytes, BlockPlan& plan) {
  WgradArguments& q = plan.arguments;
  const int64_t column =
      wgrad_result_bytes(element_bytes, copies) + positions * wgrad_position_bytes(element_bytes);
  for (int teams = kWgradTeams; teams >= 1; --teams) {
    for (int columns = 2; columns >= 1; --columns) {
      const int64_t stage = columns * column;
      plan.shared_bytes = std::max<int64_t>(teams * kWgradStages * stage, (teams - 1) * kWgradTeamSumBytes);
      if (plan.shared_bytes > kMostShared) continue;
      plan.teams = teams;
      q.stage_columns = columns;
      q.column_bytes = static_cast<int>(column);
      q.stage_bytes = static_cast<int>(stage);
      return true;
    }
  }
  return false;
}

// How many shares of the points. Thread blocks come in waves, and the sums of each are written and read
// again: a step takes about six times as long as a thread block's share of that.
int choose_splits(int64_t blocks, int64_t steps) {
  int64_t best = 1, least = INT64_MAX;
  for (int64_t waves = 1; waves <= 4; ++waves) {
    const int64_t splits = std::min(kThreadBlocks * waves / blocks, steps);
    if (splits < 1) continue;
    const int64_t cost =
        6 * divide_up(blocks * splits, kThreadBlocks) * divide_up(steps, splits) + splits * blocks;
    if (cost < least) {
      least = cost;
      best = splits;
    }
  }
  return static_cast<int>(best);
}

bool plan_block(const Convolution& c, DType dtype, const Block& block, BlockPlan& plan) {
  const int axes = axis_count(block.mask), bytes = static_cast<int>(element_size(dtype));
  int dims[kAxes];
  order_axes(block.mask, dims);
  plan = {};
  WgradArguments& q = plan.arguments;
  for (int a = 0; a < kAxes; ++a) {
    const int d = dims[a];
    const int64_t reach = c.shape.dilation[d] * (c.shape.kernel[d] - 1);
    if (c.shape.input[d] > kLargest || c.shape.output[d] > kLargest || reach > kLargest ||
        c.shape.padding[d] > kLargest || c.shape.padding[d] < -kLargest ||
        c.shape.output[d] * c.shape.stride[d] > kLargest)
      return false;
    q.axis[a].kernel = static_cast<int>(c.shape.kernel[d]);
    q.axis[a].stride = static_cast<int>(c.shape.stride[d]);
    q.axis[a].padding = static_cast<int>(c.shape.padding[d]);
    q.axis[a].dilation = static_cast<int>(c.shape.dilation[d]);
    q.axis[a].input = static_cast<int>(c.shape.input[d]);
    q.axis[a].output = static_cast<int>(c.shape.output[d]);
    q.axis[a].coefficient = 1;
    for (int inner = d + 1; inner < kAxes; ++inner)
      q.axis[a].coefficient *= static_cast<int>(c.shape.kernel[inner]);
  }
  const WgradAxis &columns = q.axis[0], &rows = q.axis[1], &planes = q.axis[2];
  const int column_parts = TapSlots::parts(columns.kernel, axes >= 1),
            row_parts = TapSlots::parts(rows.kernel, axes >= 2);
  q.column_parts = QuickDivisor(column_parts);
  q.row_parts = QuickDivisor(row_parts);
  plan.parts = int64_t{planes.kernel} * row_parts * column_parts;
  plan.rolling = columns.kernel == 3 && columns.stride == 1 && columns.dilation == 1 && rows.kernel == 3;
  const int64_t positions = (axes == 3 && planes.kernel > 1 ? 2 : 1) *
                            TapSlots(rows.kernel, axes >= 2, 0).count() *
                            (plan.rolling ? 1 : TapSlots(columns.kernel, axes >= 1, 0).count());
  if (!plan_stages(block.size(), positions, bytes, plan)) return false;

  const int64_t lines = c.shape.batch * rows.output * planes.output;
  if (c.shape.batch > kLargest || lines > kLargest / 32) return false;
  const int at_once = plan.teams * wgrad_lines(bytes);  // lines of a thread block
  const int segments = choose_segments(lines, columns.output, at_once);
  q.segments = QuickDivisor(segments);
  q.rows = QuickDivisor(rows.output);
  q.planes = QuickDivisor(planes.output);
  q.lines = static_cast<int>(lines * segments);
  q.length = static_cast<int>(divide_up(columns.output, segments));
  const int64_t steps = divide_up(q.lines, at_once) * q.length;
  if (steps > kLargest) return false;
  q.steps = static_cast<int>(steps);

  q.orbits = static_cast<int>(block.orbits);
  q.channels = static_cast<int>(c.source_channels());
  const int64_t orbit_tiles = divide_up(q.orbits, kWgradOrbits),
                channel_tiles = divide_up(q.channels, kWgradChannels);
  q.orbit_tiles = QuickDivisor(orbit_tiles);
  q.channel_tiles = QuickDivisor(channel_tiles);
  const int64_t blocks = plan.parts * orbit_tiles * channel_tiles;
  plan.splits = choose_splits(blocks * c.shape.groups, steps);
  q.split_steps = static_cast<int>(divide_up(steps, plan.splits));
  q.channel_pitch = static_cast<int>(divide_up(q.channels, 2) * 2);
  q.group_size = c.shape.taps() * block.orbits * q.channel_pitch;
  q.split_size = c.shape.groups * q.group_size;
  return blocks <= kMaxBlocks[0] && c.shape.groups <= kMaxBlocks[1] && plan.splits <= kMaxBlocks[2];
}

template <typename Visit>
bool all_blocks(const Convolution& c, DType dtype, Visit&& visit) {
  const ChannelMap map(c.shape);
  for (int b = 0; b < kBlocks; ++b) {
    if (map.blocks[b].orbits == 0) continue;
    BlockPlan plan;
    if (!plan_block(c, dtype, map.blocks[b], plan)) return false;
    visit(b, map.blocks[b], plan);
  }
  return true;
}

int64_t partial_bytes(const Convolution& c, DType dtype) {
  int64_t numbers = 0;
  all_blocks(c, dtype, [&](int, const Block&, const BlockPlan& plan) {
    numbers = std::max(numbers, plan.splits * plan.arguments.split_size);
  });
  return divide_up(numbers * 4, 16) * 16;
}

SourceShape result_of(const Convolution& c) {
  return {c.shape.batch,
          c.shape.a_channels,
          c.shape.groups,
          {c.shape.output[0], c.shape.output[1], c.shape.output[2]}};
}

}  // namespace

bool takes(const Convolution& c, DType dtype, bool allow_tf32) {
  if (c.shape.transposed) return false;
  if (dtype == DType::kFloat64 || (dtype == DType::kFloat32 && !allow_tf32)) return false;
  if (c.shape.taps() > 4096) return false;
  // Offsets are 32-bit, in 16 bytes: of packed copies, too, where a run of channels has at most 16 bytes
  // more.
  const int64_t vector = 16 / element_size(dtype);
  auto fits = [&](int64_t points, int64_t channels, int64_t runs) {
    return channels < INT32_MAX && c.shape.batch * points < INT32_MAX &&
           c.shape.batch * points * (channels / vector + runs * c.shape.groups) < INT32_MAX;
  };
  if (!fits(c.shape.input_points(), c.shape.b_channels, 1) ||
      !fits(c.shape.output_points(), c.shape.a_channels, ChannelRuns::kMost))
    return false;
  // Of fewer points than a step of mma has, the errors of slots that are rounded to a half type do not
  // average out.
  if (c.shape.batch * c.shape.output_points() < 16) return false;
  return all_blocks(c, dtype, [](int, const Block&, const BlockPlan&) {});
}

int64_t workspace_size(const Convolution& c, const Tensor& result_gradient) {
  return partial_bytes(c, result_gradient.dtype) +
         copy_size(result_of(c), tied_runs(ChannelMap(c.shape)), result_gradient);
}

void run(const Convolution& c, const SourceView& source, const Tensor& result_gradient, void* workspace,
         cudaStream_t stream) {
  const DType dtype = result_gradient.dtype;
  ChannelRuns runs = tied_runs(ChannelMap(c.shape));
  float* partial = static_cast<float*>(workspace);
  char* copy = static_cast<char*>(workspace) + partial_bytes(c, dtype);
  const SourceView result = packed(c.shape, result_of(c), runs, result_gradient, copy, stream);
  const Launches& launches = dtype == DType::kFloat16    ? kFloat16
                             : dtype == DType::kBFloat16 ? kBFloat16
                                                         : kTensorFloat32;
  int first_run = 0;
  all_blocks(c, dtype, [&](int, const Block& block, const BlockPlan& plan) {
    const int axes = axis_count(block.mask);
    int dims[kAxes];
    order_axes(block.mask, dims);
    WgradArguments q = plan.arguments;
    auto vectors = [&](int64_t elements) { return static_cast<int>(elements * element_size(dtype) / 16); };
    for (int a = 0; a < kAxes; ++a) {
      q.axis[a].source = vectors(source.strides[1 + dims[a]]);
      q.axis[a].tap = q.axis[a].dilation * q.axis[a].source;
      q.axis[a].result = vectors(result.strides[1 + dims[a]]);
    }
    q.source = static_cast<const Word4*>(source.data);
    q.source_image = vectors(source.strides[0]);
    q.source_group = vectors(source.group);
    q.source_vectors = vectors(source.channels);
    q.result = static_cast<const Word4*>(result.data);
    q.result_image = vectors(result.strides[0]);
    q.result_group = vectors(result.group);
    q.result_vectors = static_cast<int>(divide_up(block.orbits * element_size(dtype), 16));
    for (int copy = 0; copy < block.size(); ++copy) {
      int reflected = 0;  // along the axes as the kernel takes them
      for (int a = 0; a < axes; ++a) {
        if (reflection(block.mask, copy) & axis_bit(dims[a])) reflected |= 1 << a;
      }
      q.copy[reflected] = vectors(runs.runs[first_run + copy].at);
    }
    first_run += block.size();
    q.partial = partial;
    LaunchShape shape;
    shape.threads = plan.teams * kWgradTeamThreads;
    shape.blocks[0] = plan.parts * q.orbit_tiles.value * q.channel_tiles.value;
    shape.blocks[1] = c.shape.groups;
    shape.blocks[2] = plan.splits;
    shape.shared_bytes = plan.shared_bytes;
    launches.multiply(c.shape, axes, plan.rolling, shape, q, stream);

    WgradReduction s{};
    s.partial = partial;
    s.splits = plan.splits;
    s.split_size = q.split_size;
    s.group_size = q.group_size;
    s.taps = TapOrbits(block.mask, c.shape.kernel);
    s.orbits = block.orbits;
    s.channels = q.channels;
    s.channel_pitch = q.channel_pitch;
    s.weight = c.weight;
    s.weight.data = static_cast<char*>(c.weight.data) + block.first * c.weight.result * element_size(dtype);
    // float16 keeps the size of the channels, so that no slot overflows.
    s.slot_scale = dtype == DType::kFloat16 ? 1.0f / static_cast<float>(block.size()) : 1.0f;
    s.channel = Divisor(s.channels);
    s.orbit = Divisor(s.orbits);
    s.tap_orbit = Divisor(s.taps.count(0));
    s.numbers = c.shape.groups * s.taps.count(0) * s.orbits * s.channels;
    LaunchShape reduction;
    reduction.threads = kReduceThreads;
    reduction.blocks[0] = divide_up(s.numbers, kReduceThreads);
    launches.reduce(c.shape, reduction, s, stream);
  });
}

}  // namespace symconv::cuda::wgrad_tiles
