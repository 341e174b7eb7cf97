// Plans and launches of convolutions with a tied result.
#include <algorithm>

#include "../common/channel_map.h"
#include "launch.h"
#include "tied_result.h"
#include "tied_result_launch.h"

namespace symconv::cuda::tied_result {
namespace {

// Shared memory: what lets two thread blocks live on an SM of every architecture built for where that can be,
// and what a single one may take on all of them.
constexpr int64_t kGoodShared = 49 * 1024, kMostShared = 99 * 1024;

struct Plan {
  TileGeometry tile;
  int steps, stage_steps, stages;
  int64_t row_bytes, patch_bytes, stage_bytes, shared_bytes;
  int64_t filter_tiles_per_group, tile_words, group_words;
};

int64_t step_channels(DType dtype) { return kStepBytes / element_size(dtype); }

bool plan_stages(const Convolution& c, DType dtype, int axes, int stage_steps, int stages, int64_t most,
                 Plan& plan) {
  const int64_t taps = c.shape.taps();
  const int64_t weights = stage_steps * taps * (filter_tiles(axes) / 2) * kWarpSize * 16;
  plan.row_bytes = stage_steps * kStepBytes + 16;
  const int64_t left = most - stages * weights;
  if (left <= 0) return false;
  if (!choose_tile(c.shape, kTilePointsLog2, left / (stages * plan.row_bytes + 4) - 15, plan.tile))
    return false;
  plan.stage_steps = stage_steps;
  plan.stages = stages;
  plan.steps =
      static_cast<int>(divide_up(c.source_channels(), step_channels(dtype) * stage_steps) * stage_steps);
  plan.patch_bytes = plan.tile.padded_positions() * plan.row_bytes;
  plan.stage_bytes = plan.patch_bytes + weights;
  plan.shared_bytes = plan.tile.padded_positions() * 4 + stages * plan.stage_bytes;
  return plan.shared_bytes <= most;
}

// The plan of a block of `orbits` orbits with `axes` axes in every group.
bool make_plan(const Convolution& c, DType dtype, int axes, int64_t orbits, Plan& plan) {
  const bool two_steps = c.source_channels() > step_channels(dtype);
  const bool planned = (two_steps && plan_stages(c, dtype, axes, 2, 2, kGoodShared, plan)) ||
                       (two_steps && plan_stages(c, dtype, axes, 2, 2, kMostShared, plan)) ||
                       plan_stages(c, dtype, axes, 1, 2, kMostShared, plan) ||
                       plan_stages(c, dtype, axes, 1, 1, kMostShared, plan);
  if (!planned) return false;
  plan.filter_tiles_per_group = divide_up(orbits, filter_tiles(axes) * 8);
  plan.tile_words = plan.steps * c.shape.taps() * (filter_tiles(axes) / 2) * kWarpSize;
  plan.group_words = plan.filter_tiles_per_group * plan.tile_words;
  return plan.tile.tile_count() * plan.filter_tiles_per_group <= kMaxBlocks[0] &&
         c.shape.groups <= kMaxBlocks[1];
}

// A block of orbits in strips: the tile that keeps the busiest multiprocessor busy for the shortest time.
struct StripPlan {
  StripGeometry strips;
  int warps, stage_steps, stages;
  int64_t row_bytes, patch_bytes, stage_bytes, shared_bytes;
};

int64_t rounds(int64_t blocks) { return divide_up(blocks, multiprocessors()); }

// Cycles of a multiprocessor for one step of channels of a thread block: of its tensor cores, or of its
// shared memory if that is longer, for `loads` 128 bytes into registers, and the patch (patch_wavefronts())
// and the weights of 32 orbits into shared memory.
int64_t step_cycles(int64_t tensor, int64_t loads, int64_t patch, int64_t taps) {
  return std::max(tensor, loads + patch + 8 * taps);
}

// Whether strips are better than the boxes of `boxes`, and how.
bool plan_strips(const Convolution& c, DType dtype, int mask, const SourceView& source, const Plan& boxes,
                 StripPlan& best) {
  if (mask != (kH | kV) || !has_strips(c.shape)) return false;
  const int64_t taps = c.shape.taps(), weights = taps * kStripFilterWarps * kWarpSize * 16;
  const int64_t filter_tiles = boxes.filter_tiles_per_group * c.shape.groups;
  const int64_t boxes_patch = patch_wavefronts(boxes.tile.padded_positions(), boxes.stage_steps);
  const int64_t boxes_cycles =
      rounds(boxes.tile.tile_count() * filter_tiles) * step_cycles(64 * taps, 64 * taps, boxes_patch, taps);
  int64_t least = boxes_cycles + 1;  // strips load less where both take as long
  bool found = false;
  const auto consider = [&](int run, int warps) {
    StripPlan plan{strip_geometry(c.shape, run, warps / kStripFilterWarps * kWarpStrips), warps,
                   boxes.stage_steps, 2};
    const int64_t positions = plan.strips.padded_positions();
    const auto shared_bytes = [&](int steps) {
      plan.row_bytes = steps * kStepBytes + 16;
      plan.patch_bytes = positions * plan.row_bytes;
      plan.stage_bytes = plan.patch_bytes + steps * weights;
      return plan.shared_bytes = positions * 4 + plan.stages * plan.stage_bytes;
    };
    plan.stage_steps = stage_steps_of(boxes.stage_steps, warps, kGoodShared, kMostShared, shared_bytes);
    const int64_t blocks = plan.strips.tile_count() * filter_tiles;
    if (plan.stage_steps == 0 || blocks > kMaxBlocks[0] || !offsets_fit(plan.strips, source)) return;
    const int64_t loads = (2 * plan.strips.rows() * taps / 3 + 4 * taps) * warps;
    const int64_t patch = patch_wavefronts(positions, plan.stage_steps);
    const int64_t cycles = rounds(blocks) * step_cycles(16 * taps * warps, loads, patch, taps);
    if (cycles >= least) return;
    least = cycles;
    best = plan;
    found = true;
  };
  for (int run = kStripPoints; run >= kStripPoints - 1; --run) {
    for (int warps = kMostStripWarps; warps >= kMostStripWarps / 2; warps /= 2) consider(run, warps);
  }
  return found;
}

// Offsets within a patch are 32-bit.
bool offsets_fit(const TileGeometry& tile, const SourceView& source) {
  const int64_t extents[4] = {int64_t{1} << tile.log2[0], tile.columns(0), tile.columns(1), tile.columns(2)};
  int64_t most = 0;
  for (int d = 0; d < 4; ++d)
    most += extents[d] * (source.strides[d] < 0 ? -source.strides[d] : source.strides[d]);
  return most + source.channels < INT32_MAX;
}

template <typename Visit>
void for_each_block(const Convolution& c, Visit&& visit) {
  const ChannelMap map(c.shape);
  for (const Block& block : map.blocks) {
    if (block.orbits > 0) visit(block);
  }
}

}  // namespace

bool takes(const Convolution& c, DType dtype, bool allow_tf32) {
  if (c.shape.transposed) return false;
  if (dtype == DType::kFloat64 || (dtype == DType::kFloat32 && !allow_tf32)) return false;
  if (c.shape.taps() > kMostTaps) return false;
  bool all = true;
  for_each_block(c, [&](const Block& block) {
    Plan plan{};
    all = all && make_plan(c, dtype, axis_count(block.mask), block.orbits, plan);
    if (!all) return;
    // Whatever the strides of the tensor are, it can be packed; that must fit too.
    SourceView packed{nullptr, {}, 0, static_cast<int>(c.source_channels() + 8)};
    packed.strides[3] = c.shape.groups * packed.channels;
    for (int d = kAxes - 1; d >= 0; --d) packed.strides[d] = packed.strides[d + 1] * c.shape.input[d];
    all = offsets_fit(plan.tile, packed);
  });
  return all;
}

bool reads(const Convolution& c, DType dtype, const SourceView& source) {
  bool all = true;
  for_each_block(c, [&](const Block& block) {
    Plan plan{};
    if (make_plan(c, dtype, axis_count(block.mask), block.orbits, plan))
      all = all && offsets_fit(plan.tile, source);
  });
  return all;
}

int64_t workspace_size(const Convolution& c, DType dtype) {
  int64_t words = 0;
  for_each_block(c, [&](const Block& block) {
    Plan plan{};
    make_plan(c, dtype, axis_count(block.mask), block.orbits, plan);
    words += c.shape.groups * plan.group_words;
  });
  return words * 16;
}

void run(const Convolution& c, DType dtype, const SourceView& source, const Tensor& bias,
         const Tensor& result, void* workspace, cudaStream_t stream) {
  Word4* memory = static_cast<Word4*>(workspace);
  const Launches& launches = dtype == DType::kFloat16    ? kFloat16
                             : dtype == DType::kBFloat16 ? kBFloat16
                                                         : kTensorFloat32;
  for_each_block(c, [&](const Block& block) {
    const int axes = axis_count(block.mask);
    Plan plan{};
    make_plan(c, dtype, axes, block.orbits, plan);

    FoldedWeightsShape fold{c.weight, c.weight.result, c.weight.source,
                            TapOrbits(block.mask, c.shape.kernel)};
    fold.weight.data =
        static_cast<char*>(c.weight.data) + block.first * c.weight.result * element_size(dtype);
    fold.filters = block.orbits;
    fold.channels = c.source_channels();
    fold.tile_pairs = filter_tiles(axes) / 2;
    fold.scale = 1;
    fold.add_part(kEveryParity, c.shape.taps(), plan.steps);
    fold.finish(c.shape.groups, plan.filter_tiles_per_group);
    LaunchShape fold_shape;
    fold_shape.threads = kFoldThreads;
    fold_shape.blocks[0] = divide_up(fold.words, kFoldThreads);

    TiedResultOperands operands{};
    operands.source = source;
    operands.weights = memory;
    operands.group_weights = plan.group_words;
    operands.tile_weights = plan.tile_words;
    operands.filter_tiles_per_group = static_cast<int>(plan.filter_tiles_per_group);
    operands.steps = plan.steps;
    operands.result.data = result.data;
    for (int d = 0; d < 5; ++d) operands.result.strides[d] = result.strides[d];
    operands.bias = {bias.data, bias.strides[0]};
    operands.filters = static_cast<int>(block.orbits);
    operands.channels_per_group = c.result_channels();
    for (int copy = 0; copy < block.size(); ++copy) {
      operands.first_channel[subset_index(block.mask, reflection(block.mask, copy))] = block.channel(0, copy);
    }
    const auto stage_as = [&](const auto& planned) {
      operands.stage_steps = planned.stage_steps;
      operands.stages = planned.stages;
      operands.stage_bytes = static_cast<int>(planned.stage_bytes);
      operands.patch_bytes = static_cast<int>(planned.patch_bytes);
      operands.row_bytes = static_cast<int>(planned.row_bytes);
    };
    LaunchShape shape;
    shape.blocks[1] = c.shape.groups;
    const char* name = c.op == Operator::kFprop ? "fprop" : "dgrad";
    launches.fold(name, c.shape, fold_shape, fold, memory, stream);

    StripPlan strips{};
    if (plan_strips(c, dtype, block.mask, source, plan, strips)) {
      stage_as(strips);
      TiedResultStripsArguments q{operands};
      q.strips = strips.strips;
      q.middle = static_cast<int>(c.shape.kernel[2] % 2);
      q.pairs = static_cast<int>(c.shape.kernel[2] / 2);
      q.tap_step = static_cast<int>(c.shape.dilation[2] * strips.row_bytes);
      shape.threads = strips.warps * kWarpSize;
      shape.blocks[0] = q.strips.tile_count() * plan.filter_tiles_per_group;
      shape.shared_bytes = strips.shared_bytes;
      launches.strips[q.strips.run - (kStripPoints - 1)](name, c.shape, shape, q, stream);
    } else {
      stage_as(plan);
      const TapOrbits taps(block.mask, c.shape.kernel);
      TiedResultArguments q{operands};
      q.tile = plan.tile;
      q.taps = taps.taps();
      for (int i = 0; i < q.taps; ++i) {
        const Coefficient t = taps.coefficient(i);
        q.tap_offset[i] = plan.tile.tap_offset(t.tap, t.parity) * static_cast<int>(plan.row_bytes);
      }
      for (int d = 0; d < block.size(); ++d) q.tap_orbits[d] = taps.orbits(subset(block.mask, d));
      shape.threads = kTileThreads;
      shape.blocks[0] = plan.tile.tile_count() * plan.filter_tiles_per_group;
      shape.shared_bytes = plan.shared_bytes;
      launches.boxes[axes](name, c.shape, shape, q, stream);
    }
    memory += fold.words;
  });
}

}  // namespace symconv::cuda::tied_result
