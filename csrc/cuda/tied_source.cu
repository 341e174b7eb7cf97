// Plans and launches of convolutions with a tied source.
#include <algorithm>

#include "../common/channel_map.h"
#include "launch.h"
#include "slots.h"
#include "tied_source.h"
#include "tied_source_launch.h"

namespace symconv::cuda::tied_source {
namespace {

constexpr int64_t kGoodShared = 49 * 1024, kMostShared = 99 * 1024;  // as in tied_result.cu
constexpr int64_t kPairs = kTiedSourceChannelTiles / 2;

// Everything but the pointers and strides of the tensors.
struct Plan {
  TiedSourceArguments arguments{};
  FoldedWeightsShape folds[kBlocks];
  int64_t shared_bytes;
  int64_t weight_words;
};

bool plan_stages(const Convolution& c, DType dtype, int stage_steps, int stages, int64_t most, Plan& plan) {
  const ChannelMap map(c.shape);
  const SlotPlanes planes(map, c.shape.groups, dtype);
  TiedSourceArguments& q = plan.arguments;
  q = {};
  q.stage_steps = stage_steps;
  q.stages = stages;
  q.row_bytes = stage_steps * static_cast<int>(kStepBytes) + 16;
  q.tiles_per_group = static_cast<int>(divide_up(c.result_channels(), kTiedSourceChannelTiles * 8));
  const int64_t stage_channels = stage_steps * kStepBytes / element_size(dtype);
  int most_coefficients = 0;
  plan.weight_words = 0;
  for (int b = 0; b < kBlocks; ++b) {
    const Block& block = map.blocks[b];
    if (block.orbits == 0) continue;
    const TapOrbits taps(block.mask, c.shape.kernel);
    const int64_t steps = divide_up(block.orbits, stage_channels) * stage_steps;
    FoldedWeightsShape& fold = plan.folds[b];
    fold = {c.weight, c.weight.result, c.weight.source, taps};
    fold.weight.data =
        static_cast<char*>(c.weight.data) + block.first * c.weight.source * element_size(dtype);
    fold.filters = c.result_channels();
    fold.channels = block.orbits;
    fold.tile_pairs = kPairs;
    fold.scale = 1.0f / slot_scale(dtype, axis_count(block.mask));
    const int first_parity = q.parities;
    for (int s = 0; s < block.size(); ++s) {
      const int parity = subset(block.mask, s), count = taps.count(parity);
      if (count == 0) continue;
      SourceParity& p = q.parity[q.parities++];
      p.mask = block.mask;
      p.parity = parity;
      p.coefficients = count;
      p.first_coefficient = q.coefficients;
      p.first_term = q.terms;
      p.steps = static_cast<int>(steps);
      p.channel = static_cast<int>(planes.first[b] + s * planes.width[b]);
      p.channels = static_cast<int>(planes.width[b]);
      p.weights = plan.weight_words + fold.first[fold.parts];
      fold.add_part(parity, count, steps);
      q.coefficients += count;
      q.terms += taps.terms(parity);
      q.stage_count += static_cast<int>(steps / stage_steps);
      most_coefficients = std::max(most_coefficients, count);
    }
    fold.finish(c.shape.groups, q.tiles_per_group);
    for (int p = first_parity; p < q.parities; ++p) q.parity[p].tile_weights = fold.first[fold.parts];
    plan.weight_words += fold.words;
  }
  const int64_t tables = divide_up(q.coefficients, 4) * 16 + divide_up(q.terms, 2) * 16;
  const int64_t weights = stage_steps * most_coefficients * kPairs * kWarpSize * 16;
  const int64_t left = most - tables - 16 - stages * weights;
  if (left <= 0 ||
      !choose_tile(c.shape, kTiedSourcePointsLog2, left / (stages * q.row_bytes + 4) - 15, q.tile))
    return false;
  q.patch_bytes = q.tile.padded_positions() * q.row_bytes;
  q.stage_bytes = q.patch_bytes + static_cast<int>(weights);
  plan.shared_bytes = tables + q.tile.padded_positions() * 4 + stages * q.stage_bytes;
  return plan.shared_bytes <= most;
}

bool make_plan(const Convolution& c, DType dtype, Plan& plan) {
  const bool planned =
      plan_stages(c, dtype, 2, 2, kGoodShared, plan) || plan_stages(c, dtype, 1, 2, kGoodShared, plan) ||
      plan_stages(c, dtype, 2, 2, kMostShared, plan) || plan_stages(c, dtype, 1, 2, kMostShared, plan) ||
      plan_stages(c, dtype, 1, 1, kMostShared, plan);
  if (!planned) return false;
  const TiedSourceArguments& q = plan.arguments;
  return q.tile.tile_count() * q.tiles_per_group <= kMaxBlocks[0] && c.shape.groups <= kMaxBlocks[1];
}

// Writes the columns of a parity, the taps along h that are folded together; returns how many there are.
int write_columns(const Problem& shape, const SourceParity& p, int row_bytes, FoldedColumn* columns) {
  const int taps = static_cast<int>(shape.kernel[2]);
  const int step = static_cast<int>(shape.dilation[2]) * row_bytes;
  const bool folded = p.mask & kH, odd = p.parity & kH;
  const int single = !folded ? taps : odd ? 0 : taps % 2, pairs = folded ? taps / 2 : 0;
  for (int i = 0; i < single; ++i) columns[i] = {1, {(folded ? taps / 2 : i) * step}, {1}, i, single};
  for (int i = 0; i < pairs; ++i) {
    columns[single + i] = {
        2, {i * step, (taps - 1 - i) * step}, {1, sign(p.parity, kH)}, kStripTaps * single + i, pairs};
  }
  // The order of TapOrbits: what is paired along v comes after all that is not.
  for (int i = 0; p.mask & kV && i < single + pairs; ++i) {
    columns[i].weights = i;
    columns[i].next = single + pairs;
  }
  return single + pairs;
}

int64_t rounds(int64_t blocks) { return divide_up(blocks, multiprocessors()); }

// Cycles of a multiprocessor for a step of channels of a thread block: of its tensor cores, or of its shared
// memory if that is longer. Each of so many warps loads its points' taps and 64 channels' weights; in front
// of that the patch of every parity, and the weights, are copied.
int64_t step_cycles(const TiedSourceOperands& q, int64_t coefficients, int64_t warps, int64_t tap_loads,
                    int64_t positions, int64_t channel_tiles) {
  const int64_t copies =
      q.parities * patch_wavefronts(positions, q.stage_steps) + 16 * coefficients * channel_tiles;
  return std::max(64 * coefficients * warps, (4 * tap_loads + 16 * coefficients) * warps + copies);
}

struct StripPlan {
  TiedSourceStripsArguments arguments;
  int warps;
  int64_t shared_bytes;
};

// The plan for so many warps, and so many of them along the channels, of the stages that boxes have planned.
bool plan_strips(const Convolution& c, const TiedSourceOperands& boxes, int run, int warps, int channel_warps,
                 StripPlan& plan) {
  TiedSourceStripsArguments& q = plan.arguments;
  q = {boxes};
  q.strips = strip_geometry(c.shape, run, warps / channel_warps * kWarpStrips);
  q.channel_warps = channel_warps;
  q.stages = 2;
  plan.warps = warps;
  int most_coefficients = 0;
  for (int p = 0; p < q.parities; ++p)
    most_coefficients = std::max(most_coefficients, q.parity[p].coefficients);
  const int positions = q.strips.padded_positions();
  const auto shared_bytes = [&](int steps) {
    q.row_bytes = steps * static_cast<int>(kStepBytes) + 16;
    q.patch_bytes = positions * q.row_bytes;
    q.weight_bytes = steps * most_coefficients * static_cast<int>(kPairs) * kWarpSize * 16;
    q.stage_bytes = q.patch_bytes + channel_warps * q.weight_bytes;
    return plan.shared_bytes = positions * 4 + static_cast<int64_t>(q.stages) * q.stage_bytes;
  };
  q.stage_steps = stage_steps_of(boxes.stage_steps, warps, kGoodShared, kMostShared, shared_bytes);
  if (q.stage_steps == 0) return false;
  q.stage_count = boxes.stage_count * (boxes.stage_steps / q.stage_steps);
  for (int p = 0; p < q.parities; ++p) {
    const SourceParity& parity = q.parity[p];
    q.along_v[p] = !(parity.mask & kV) ? AlongV::kPlain : parity.parity & kV ? AlongV::kOdd : AlongV::kEven;
    if (q.first_column[p] + c.shape.kernel[2] > kMostStripColumns) return false;
    q.first_column[p + 1] =
        q.first_column[p] + write_columns(c.shape, parity, q.row_bytes, q.columns + q.first_column[p]);
  }
  return true;
}

// Whether strips are better than the boxes that are planned, and how: the tile that keeps the busiest
// multiprocessor busy for the shortest time.
bool plan_strips(const Convolution& c, const TiedSourceArguments& boxes, StripPlan& best) {
  if (!has_strips(c.shape)) return false;
  bool found = false;
  const int64_t boxes_cycles =
      rounds(boxes.tile.tile_count() * boxes.tiles_per_group * c.shape.groups) *
      step_cycles(boxes, boxes.coefficients, 4, 4 * boxes.terms, boxes.tile.padded_positions(), 1);
  int64_t least = boxes_cycles + 1;  // strips load less where both take as long
  const auto consider = [&](int run, int warps, int channel_warps) {
    StripPlan plan;
    if (!plan_strips(c, boxes, run, warps, channel_warps, plan)) return;
    const TiedSourceStripsArguments& q = plan.arguments;
    int taps = 0;
    for (int j = 0; j < q.first_column[q.parities]; ++j) taps += q.columns[j].taps;
    const int64_t blocks = q.strips.tile_count() * divide_up(q.tiles_per_group, channel_warps);
    if (blocks > kMaxBlocks[0] || !offsets_fit(q.strips, boxes.source)) return;
    const int64_t cycles = rounds(blocks * c.shape.groups) *
                           step_cycles(q, boxes.coefficients, warps, q.strips.rows() / 2 * taps,
                                       q.strips.padded_positions(), channel_warps);
    if (cycles >= least) return;
    least = cycles;
    best = plan;
    found = true;
  };
  for (int run = kStripPoints; run >= kStripPoints - 1; --run) {
    for (int warps = kMostStripWarps; warps >= kMostStripWarps / 2; warps /= 2) {
      for (int channel_warps = 2; channel_warps > 0; --channel_warps) {
        if (channel_warps <= boxes.tiles_per_group) consider(run, warps, channel_warps);
      }
    }
  }
  return found;
}

}  // namespace

bool takes(const Convolution& c, DType dtype, bool allow_tf32) {
  if (!c.shape.transposed) return false;
  if (dtype == DType::kFloat64 || (dtype == DType::kFloat32 && !allow_tf32)) return false;
  if (c.shape.taps() > 1024 || c.source_channels() * 2 > INT32_MAX || c.result_channels() > INT32_MAX / 2)
    return false;
  Plan plan;
  if (!make_plan(c, dtype, plan)) return false;
  // Offsets within a patch are 32-bit.
  const SlotPlanes planes(ChannelMap(c.shape), c.shape.groups, dtype);
  const TileGeometry& tile = plan.arguments.tile;
  int64_t stride = planes.point, most = planes.group;
  for (int d = kAxes - 1; d >= 0; --d) {
    most += tile.columns(d) * stride;
    stride *= c.shape.input[d];
  }
  most += stride << tile.log2[0];
  return most < INT32_MAX;
}

int64_t workspace_size(const Convolution& c, DType dtype) {
  Plan plan;
  make_plan(c, dtype, plan);
  return plan.weight_words * 16;
}

void run(const Convolution& c, DType dtype, const SourceView& slots, const Tensor& bias, const Tensor& result,
         void* workspace, cudaStream_t stream) {
  Plan plan;
  make_plan(c, dtype, plan);
  const char* name = c.op == Operator::kFprop ? "fprop" : "dgrad";
  const Launches& launches = dtype == DType::kFloat16    ? kFloat16
                             : dtype == DType::kBFloat16 ? kBFloat16
                                                         : kTensorFloat32;
  Word4* weights = static_cast<Word4*>(workspace);
  TiedSourceArguments& q = plan.arguments;
  q.weights = weights;
  for (int b = 0; b < kBlocks; ++b) {
    if (c.shape.orbits[b] == 0) continue;
    LaunchShape shape;
    shape.threads = kFoldThreads;
    shape.blocks[0] = divide_up(plan.folds[b].words, kFoldThreads);
    launches.fold(name, c.shape, shape, plan.folds[b], weights, stream);
    weights += plan.folds[b].words;
  }
  q.source = slots;
  q.result.data = result.data;
  for (int d = 0; d < 5; ++d) q.result.strides[d] = result.strides[d];
  q.bias = {bias.data, bias.strides[0]};
  q.channels_per_group = static_cast<int>(c.result_channels());
  LaunchShape shape;
  shape.blocks[1] = c.shape.groups;
  StripPlan strips;
  if (plan_strips(c, q, strips)) {
    const TiedSourceStripsArguments& in_strips = strips.arguments;
    shape.threads = strips.warps * kWarpSize;
    shape.blocks[0] = in_strips.strips.tile_count() * divide_up(q.tiles_per_group, in_strips.channel_warps);
    shape.shared_bytes = strips.shared_bytes;
    launches.strips[in_strips.strips.run - (kStripPoints - 1)](name, c.shape, shape, in_strips, stream);
  } else {
    shape.threads = kTileThreads;
    shape.blocks[0] = q.tile.tile_count() * q.tiles_per_group;
    shape.shared_bytes = plan.shared_bytes;
    launches.boxes(name, c.shape, shape, q, stream);
  }
}

}  // namespace symconv::cuda::tied_source
