// Tiles of strips of a problem.
#include <numeric>

#include "strips.h"

namespace symconv::cuda {

bool has_strips(const Problem& shape) {
  constexpr int64_t kLargest = int64_t{1} << 24;
  if (shape.kernel[0] != 1 || shape.input[0] != 1 || shape.output[0] != 1 || shape.padding[0] != 0)
    return false;
  if (shape.kernel[1] != kStripTaps || shape.dilation[1] != 1) return false;
  for (int d = 1; d < kAxes; ++d) {
    if (shape.stride[d] != 1 || shape.input[d] > kLargest || shape.output[d] > kLargest) return false;
    if (shape.padding[d] > kLargest || shape.padding[d] < -kLargest) return false;
  }
  if (shape.dilation[2] * (shape.kernel[2] - 1) > 1024) return false;
  return shape.batch < INT32_MAX / 16 / (shape.output[1] + 8) / shape.output[2];
}

StripGeometry strip_geometry(const Problem& shape, int run, int strips) {
  StripGeometry g{};
  g.strips = strips;
  g.run = run;
  g.batch = shape.batch;
  g.height = static_cast<int>(shape.output[1]);
  g.width = static_cast<int>(shape.output[2]);
  for (int d = 0; d < 2; ++d) {
    g.input[d] = static_cast<int>(shape.input[1 + d]);
    g.padding[d] = static_cast<int>(shape.padding[1 + d]);
  }
  g.bands = (g.height + run - 1) / run;
  g.lines = static_cast<int>(g.batch) * g.bands;
  if (run < kStripPoints) g.lines = (g.lines + run) / (run + 1) * run;
  g.reach = static_cast<int>(shape.dilation[2] * (shape.kernel[2] - 1));
  // Where lines end with a warp's strips, no warp reads across.
  const int unit = g.width % kWarpStrips == 0 ? 1 : kWarpStrips;
  const int skip = (g.reach + unit - 1) / unit * unit;
  g.pitch = g.width + skip;
  // A tile begins at a multiple of `strips`, so at a multiple of the common divisor along its line.
  const int last_start = g.width - std::gcd(g.width, strips);
  g.columns = strips + (last_start + strips - 1) / g.width * skip + g.reach;
  return g;
}

bool offsets_fit(const StripGeometry& g, const SourceView& source) {
  // Bands from a tile's first line to its last, and to the last of the group that this is in.
  const int64_t bands = (g.width + g.strips - 2) / g.width * 2 + kStripPoints;
  const int64_t extents[4] = {bands / g.bands + 2, 1, g.input[0], g.input[1]};
  int64_t most = source.channels;
  for (int d = 0; d < 4; ++d)
    most += extents[d] * (source.strides[d] < 0 ? -source.strides[d] : source.strides[d]);
  return most < INT32_MAX;
}

}  // namespace symconv::cuda
