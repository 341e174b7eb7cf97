// The choice of a tile.
#include "tile_geometry.h"

namespace symconv::cuda {
namespace {

constexpr int64_t kLargest = int64_t{1} << 30;

int64_t patch(const Problem& shape, TileGeometry& g) {
  int64_t positions = int64_t{1} << g.log2[0];
  for (int d = 0; d < kAxes; ++d) {
    const int64_t s = shape.stride[d], t = shape.dilation[d] * (shape.kernel[d] - 1);
    // Taps of several phases only where a dilation that is no multiple of the stride leads there.
    const bool one_phase = shape.kernel[d] == 1 || shape.dilation[d] % s == 0;
    const int64_t width = (int64_t{1} << g.log2[1 + d]) + t / s;
    const int64_t phases = one_phase ? 1 : s;
    if (width * phases > kLargest || positions * width * phases > kLargest) return kLargest;
    g.width[d] = static_cast<int>(width);
    g.phases[d] = static_cast<int>(phases);
    positions *= width * phases;
  }
  g.positions = static_cast<int>(positions);
  return positions;
}

}  // namespace

bool choose_tile(const Problem& shape, int points_log2, int64_t max_positions, TileGeometry& best) {
  for (int d = 0; d < kAxes; ++d) {
    const int64_t reach = shape.dilation[d] * (shape.kernel[d] - 1);
    if (shape.input[d] > kLargest || shape.output[d] > kLargest ||
        shape.stride[d] > kLargest >> (points_log2 + 1))
      return false;
    if (reach > kLargest || shape.padding[d] > kLargest || shape.padding[d] < -kLargest) return false;
    if (shape.output[d] * shape.stride[d] > kLargest) return false;
  }
  if (shape.batch > kLargest) return false;
  bool found = false;
  int64_t least = 0;
  for (int n = 0; n <= points_log2; ++n) {
    for (int z = 0; n + z <= points_log2; ++z) {
      for (int v = 0; n + z + v <= points_log2; ++v) {
        TileGeometry g{};
        const int logs[4] = {n, z, v, points_log2 - n - z - v};
        const int64_t extents[4] = {shape.batch, shape.output[0], shape.output[1], shape.output[2]};
        int64_t count = 1;
        for (int d = 0; d < 4; ++d) {
          g.log2[d] = logs[d];
          g.tiles[d] = static_cast<int>((extents[d] + (int64_t{1} << logs[d]) - 1) >> logs[d]);
          count *= g.tiles[d];
        }
        const int64_t positions = patch(shape, g);
        if (positions > max_positions) continue;
        if (count > INT32_MAX) continue;  // more than a grid has
        // Rows of fewer than eight points bring ldmatrix bank conflicts.
        const int64_t cost = (count * 2 + (g.log2[3] < 3 ? 1 : 0)) * (kLargest + 1) + positions;
        if (found && cost >= least) continue;
        found = true;
        least = cost;
        best = g;
      }
    }
  }
  if (!found) return false;
  for (int d = 0; d < kAxes; ++d) {
    best.input[d] = static_cast<int>(shape.input[d]);
    best.output[d] = static_cast<int>(shape.output[d]);
    best.kernel[d] = static_cast<int>(shape.kernel[d]);
    best.stride[d] = static_cast<int>(shape.stride[d]);
    best.padding[d] = static_cast<int>(shape.padding[d]);
    best.dilation[d] = static_cast<int>(shape.dilation[d]);
  }
  best.batch = shape.batch;
  return true;
}

}  // namespace symconv::cuda
