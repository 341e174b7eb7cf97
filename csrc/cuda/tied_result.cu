// Plans and launches of convolutions with a tied result.
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

// Offsets within a patch are 32-bit.
bool offsets_fit(const TileGeometry& tile, const SourceView& source) {
  const int64_t extents[4] = {int64_t{1} << tile.log2[0], tile.columns(0), tile.columns(1), tile.columns(2)};
  int64_t most = 0;
  for (int d = 0; d < 4; ++d)
    most += extents[d] * (source.strides[d] < 0 ? -source.strides[d] : source.strides[d]);
  return most + source.channels < INT32_MAX;
}

// Whether a warp's points are two neighbouring rows of 16 that three taps along v read in neighbouring rows.
bool shares_rows(int mask, const TileGeometry& tile) {
  return mask == (kH | kV) && tile.kernel[1] == 3 && tile.stride[1] == 1 && tile.dilation[1] == 1 &&
         tile.log2[3] == 4 && tile.log2[2] >= 1;
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

    const TapOrbits taps(block.mask, c.shape.kernel);
    TiedResultArguments q{};
    q.tile = plan.tile;
    q.taps = taps.taps();
    for (int i = 0; i < q.taps; ++i) {
      const Coefficient t = taps.coefficient(i);
      q.tap_offset[i] = plan.tile.tap_offset(t.tap, t.parity) * static_cast<int>(plan.row_bytes);
    }
    for (int d = 0; d < block.size(); ++d) q.tap_orbits[d] = taps.orbits(subset(block.mask, d));
    q.row_pitch = plan.tile.columns(2) * static_cast<int>(plan.row_bytes);
    const bool shared_rows = shares_rows(block.mask, plan.tile);
    q.source = source;
    q.weights = memory;
    q.group_weights = plan.group_words;
    q.tile_weights = plan.tile_words;
    q.filter_tiles_per_group = static_cast<int>(plan.filter_tiles_per_group);
    q.steps = plan.steps;
    q.stage_steps = plan.stage_steps;
    q.stages = plan.stages;
    q.stage_bytes = static_cast<int>(plan.stage_bytes);
    q.patch_bytes = static_cast<int>(plan.patch_bytes);
    q.row_bytes = static_cast<int>(plan.row_bytes);
    q.result.data = result.data;
    for (int d = 0; d < 5; ++d) q.result.strides[d] = result.strides[d];
    q.bias = {bias.data, bias.strides[0]};
    q.filters = static_cast<int>(block.orbits);
    q.channels_per_group = c.result_channels();
    for (int copy = 0; copy < block.size(); ++copy) {
      q.first_channel[subset_index(block.mask, reflection(block.mask, copy))] = block.channel(0, copy);
    }
    LaunchShape shape;
    shape.threads = kTileThreads;
    shape.blocks[0] = plan.tile.tile_count() * plan.filter_tiles_per_group;
    shape.blocks[1] = c.shape.groups;
    shape.shared_bytes = plan.shared_bytes;

    if (dtype == DType::kFloat16) {
      launch_float16(c, fold_shape, fold, memory, axes, shared_rows, shape, q, stream);
    } else if (dtype == DType::kBFloat16) {
      launch_bfloat16(c, fold_shape, fold, memory, axes, shared_rows, shape, q, stream);
    } else {
      launch_tf32(c, fold_shape, fold, memory, axes, shared_rows, shape, q, stream);
    }
    memory += fold.words;
  });
}

}  // namespace symconv::cuda::tied_result
