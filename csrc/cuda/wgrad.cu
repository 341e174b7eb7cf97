// Plans and launches of weight gradients.
#include <algorithm>

#include "../common/channel_map.h"
#include "launch.h"
#include "slots.h"
#include "wgrad.h"
#include "wgrad_launch.h"

namespace symconv::cuda::wgrad_tiles {
namespace {

constexpr int64_t kGoodShared = 49 * 1024, kMostShared = 99 * 1024;  // as in tied_result.cu
// Thread blocks that a gradient is split into, over all its tap orbits: enough for any GPU of today; what
// there is more adds work to the reduction. A constant, so that the order of the sums depends on the problem
// alone.
constexpr int64_t kThreadBlocks = 528;

SourceShape result_of(const Convolution& c) {
  return {c.shape.batch,
          c.shape.a_channels,
          c.shape.groups,
          {c.shape.output[0], c.shape.output[1], c.shape.output[2]}};
}

// The tap orbits of one block that are paired along `paired`.
struct PairingPlan {
  int paired, tap_orbits, first_coefficient;
  int stages;
  int64_t patch_bytes, stage_bytes, shared_bytes;
  int64_t orbit_tiles;
  TileGeometry tile;
};

struct BlockPlan {
  PairingPlan pairings[kMaxOrbit];
  int count = 0;
  int64_t splits = 1, group_size = 0, split_size = 0;
};

bool plan_tile(const Convolution& c, DType dtype, int points_log2, int stages, int64_t most,
               PairingPlan& plan) {
  const int64_t row_bytes = kWgradChannels * element_size(dtype) + (dtype == DType::kFloat32 ? 32 : 16);
  const int64_t slots = (int64_t{1} << axis_count(plan.paired) << points_log2) * row_bytes;
  const int64_t left = most - 16 - stages * slots;
  if (left <= 0 || !choose_tile(c.shape, points_log2, left / (stages * row_bytes + 8), plan.tile))
    return false;
  for (int d = 0; d < kAxes; ++d) {  // what lies at a position is noted in 16 bits a dimension
    if (static_cast<int64_t>(plan.tile.width[d]) * plan.tile.stride[d] > 65535) return false;
  }
  plan.stages = stages;
  plan.patch_bytes = plan.tile.positions * row_bytes;
  plan.stage_bytes = plan.patch_bytes + slots;
  plan.shared_bytes = divide_up(plan.tile.positions, 2) * 16 + stages * plan.stage_bytes;
  return plan.shared_bytes <= most;
}

bool plan_pairing(const Convolution& c, DType dtype, PairingPlan& plan) {
  return plan_tile(c, dtype, 6, 2, kGoodShared, plan) || plan_tile(c, dtype, 5, 2, kGoodShared, plan) ||
         plan_tile(c, dtype, 6, 2, kMostShared, plan) || plan_tile(c, dtype, 5, 2, kMostShared, plan) ||
         plan_tile(c, dtype, 4, 2, kMostShared, plan) || plan_tile(c, dtype, 4, 1, kMostShared, plan);
}

bool plan_block(const Convolution& c, DType dtype, const Block& block, BlockPlan& plan) {
  const TapOrbits taps(block.mask, c.shape.kernel);
  const int64_t channel_tiles = divide_up(c.source_channels(), kWgradChannels);
  int coefficient = 0;
  int64_t thread_blocks = 0, fewest_tiles = INT64_MAX;
  for (int i = 0; i < orbit_size(block.mask); ++i) {
    PairingPlan p{};
    p.paired = subset(block.mask, i);
    p.tap_orbits = taps.orbits(p.paired);
    p.first_coefficient = coefficient;
    coefficient += p.tap_orbits * orbit_size(p.paired);
    if (p.tap_orbits == 0) continue;
    if (!plan_pairing(c, dtype, p)) return false;
    p.orbit_tiles = divide_up(block.orbits, wgrad_orbits(axis_count(p.paired)));
    const int64_t blocks = p.tap_orbits * p.orbit_tiles * channel_tiles;
    if (blocks > kMaxBlocks[0]) return false;
    thread_blocks += blocks * c.shape.groups;
    fewest_tiles = std::min(fewest_tiles, p.tile.tile_count());
    plan.pairings[plan.count++] = p;
  }
  plan.splits = std::max<int64_t>(1, std::min(divide_up(kThreadBlocks, thread_blocks), fewest_tiles));
  plan.group_size = c.shape.taps() * block.orbits * c.source_channels();
  plan.split_size = c.shape.groups * plan.group_size;
  return c.shape.groups <= kMaxBlocks[1] && plan.splits <= kMaxBlocks[2];
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

}  // namespace

bool takes(const Convolution& c, DType dtype, bool allow_tf32) {
  if (c.shape.transposed) return false;
  if (dtype == DType::kFloat64 || (dtype == DType::kFloat32 && !allow_tf32)) return false;
  if (c.shape.taps() > 4096) return false;
  return all_blocks(c, dtype, [](int, const Block&, const BlockPlan&) {});
}

int64_t workspace_size(const Convolution& c, DType dtype) {
  int64_t numbers = 0;
  all_blocks(c, dtype, [&](int, const Block&, const BlockPlan& plan) {
    numbers = std::max(numbers, plan.splits * plan.split_size);
  });
  return divide_up(numbers * 4, 16) * 16 + slots_size(ChannelMap(c.shape), result_of(c), dtype);
}

void run(const Convolution& c, DType dtype, const SourceView& source, const Tensor& result_gradient,
         void* workspace, cudaStream_t stream) {
  const ChannelMap map(c.shape);
  const SlotPlanes planes(map, c.shape.groups, dtype);
  const SourceView slots = make_slots(c.shape, map, result_of(c), result_gradient, workspace, stream);
  float* partial =
      reinterpret_cast<float*>(static_cast<char*>(workspace) + slots_size(map, result_of(c), dtype));
  const Launches& launches = dtype == DType::kFloat16    ? kFloat16
                             : dtype == DType::kBFloat16 ? kBFloat16
                                                         : kTensorFloat32;
  all_blocks(c, dtype, [&](int b, const Block& block, const BlockPlan& plan) {
    const TapOrbits taps(block.mask, c.shape.kernel);
    for (int i = 0; i < plan.count; ++i) {
      const PairingPlan& p = plan.pairings[i];
      WgradArguments q{};
      q.tile = p.tile;
      q.taps = taps;
      q.first_coefficient = p.first_coefficient;
      q.tap_orbits = p.tap_orbits;
      q.source = source;
      q.slots = slots;
      for (int j = 0; j < orbit_size(p.paired); ++j) {
        q.plane[j] = static_cast<int>(planes.first[b] +
                                      subset_index(block.mask, subset(p.paired, j)) * planes.width[b]);
      }
      q.plane_channels = static_cast<int>(planes.width[b]);
      q.orbits = static_cast<int>(block.orbits);
      q.channels = static_cast<int>(c.source_channels());
      q.orbit_tiles = static_cast<int>(p.orbit_tiles);
      q.channel_tiles = static_cast<int>(divide_up(c.source_channels(), kWgradChannels));
      q.splits = static_cast<int>(plan.splits);
      q.stages = p.stages;
      q.stage_bytes = static_cast<int>(p.stage_bytes);
      q.patch_bytes = static_cast<int>(p.patch_bytes);
      q.points = 1 << (p.tile.log2[0] + p.tile.log2[1] + p.tile.log2[2] + p.tile.log2[3]);
      q.partial = partial;
      q.split_size = plan.split_size;
      q.group_size = plan.group_size;
      LaunchShape shape;
      shape.threads = kTileThreads;
      shape.blocks[0] = p.tap_orbits * p.orbit_tiles * q.channel_tiles;
      shape.blocks[1] = c.shape.groups;
      shape.blocks[2] = plan.splits;
      shape.shared_bytes = p.shared_bytes;
      launches.multiply(c.shape, axis_count(p.paired), shape, q, stream);
    }
    WgradReduction s{};
    s.partial = partial;
    s.splits = static_cast<int>(plan.splits);
    s.split_size = plan.split_size;
    s.group_size = plan.group_size;
    s.taps = taps;
    s.orbits = block.orbits;
    s.channels = c.source_channels();
    s.numbers = plan.split_size;
    s.weight = c.weight;
    s.weight.data = static_cast<char*>(c.weight.data) + block.first * c.weight.result * element_size(dtype);
    s.slot_scale = slot_scale(dtype, axis_count(block.mask));
    s.channel = Divisor(s.channels);
    s.orbit = Divisor(s.orbits);
    s.coefficient = Divisor(c.shape.taps());
    LaunchShape shape;
    shape.threads = kReduceThreads;
    shape.blocks[0] = divide_up(s.numbers, kReduceThreads);
    launches.reduce(c.shape, shape, s, stream);
  });
}

}  // namespace symconv::cuda::wgrad_tiles
