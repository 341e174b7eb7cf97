// Flat tilings of a patch: see patch.h.
#include <algorithm>

#include "patch.h"

namespace symconv::cpu {

void Patch::plan_flat(TapOffsets (&offsets)[kAxes]) {
  for (int d = 0; d < kAxes; ++d) {
    for (int64_t t = 0; t < c_.kernel[d]; ++t) reach_[d].push_back(t * c_.dilation[d] - c_.padding[d]);
  }
  // Points from a point to its taps in the same slice.
  const int64_t width = c_.output[2];
  const auto ends = [](const TapOffsets& reach, int64_t step) {
    return std::pair{std::min(reach.front(), reach.back()) * step,
                     std::max(reach.front(), reach.back()) * step};
  };
  const auto [v_low, v_high] = ends(reach_[1], width);
  const auto [h_low, h_high] = ends(reach_[2], 1);
  before_ = std::max<int64_t>(0, -(v_low + h_low));
  after_ = std::max<int64_t>(0, v_high + h_high);
  section_ = before_ + tiling_.rows + after_;
  for (int64_t t = 0; t < c_.kernel[0]; ++t) offsets[0][t] = before_ + t * section_;
  for (int64_t t = 0; t < c_.kernel[1]; ++t) offsets[1][t] = reach_[1][t] * width;
  offsets[2] = reach_[2];
  // Where a table's reads are not masked, whole vectors are read past the last point.
  plane_ = c_.kernel[0] * section_ + 2 * lanes_;
}

bool Patch::compact(const Tensor& tensor) const {
  return (c_.output[1] == 1 || tensor.strides[3] == c_.output[2] * tensor.strides[4]) &&
         (c_.output[0] == 1 || tensor.strides[2] == c_.output[1] * c_.output[2] * tensor.strides[4]);
}

void Patch::flat_staging(const Tile& tile, const Tensor& source, std::vector<StagedRun>& runs) const {
  const int64_t image = image_points(), run = compact(source) ? image : c_.output[2];
  int64_t section = 0;
  for (const int64_t z : reach_[0]) {
    // Position p of the section holds point first + p, of all images' points.
    const int64_t first = tile.first_row + z * c_.output[1] * c_.output[2] - before_;
    const int64_t last = std::min(tile.last_row + z * c_.output[1] * c_.output[2] + after_, c_.batch * image);
    for (int64_t point = std::max<int64_t>(first, 0); point < last;) {
      const int64_t count = std::min(last - point, run - point % run);
      const int64_t n = point / image, x = point % c_.output[2], y = point / c_.output[2] % c_.output[1],
                    depth = point % image / (c_.output[1] * c_.output[2]);
      runs.push_back({section + point - first, 0, count, count,
                      n * source.strides[0] + depth * source.strides[2] + y * source.strides[3] +
                          x * source.strides[4]});
      point += count;
    }
    section += section_;
  }
}

void Patch::flat_masks(const Tile& tile, std::vector<uint32_t>& masks) const {
  const int64_t points = this->points(tile), taps = c_.taps();
  masks.assign(ceil_div(points, lanes_) * taps, 0);
  std::vector<uint32_t> along[kAxes];  // of each tap along an axis, for one vector
  int64_t x[kAxes];                    // of the next point: z, y, x
  x[2] = tile.first_row % c_.output[2];
  x[1] = tile.first_row / c_.output[2] % c_.output[1];
  x[0] = tile.first_row / (c_.output[1] * c_.output[2]) % c_.output[0];
  uint32_t* mask = masks.data();
  // The lowest n bits, n <= 32.
  const auto lowest = [](int64_t n) { return static_cast<uint32_t>((uint64_t{1} << n) - 1); };
  for (int64_t point = 0; point < points; point += lanes_) {
    for (int d = 0; d < kAxes; ++d) along[d].assign(c_.kernel[d], 0);
    const int64_t lanes = std::min<int64_t>(lanes_, points - point);
    for (int64_t lane = 0; lane < lanes;) {  // a piece of a row
      const int64_t n = std::min(lanes - lane, c_.output[2] - x[2]);
      const uint32_t all = lowest(n) << lane;
      for (int d = 0; d < 2; ++d) {
        for (int64_t t = 0; t < c_.kernel[d]; ++t) {
          const int64_t at = x[d] + reach_[d][t];
          if (at >= 0 && at < c_.source[d]) along[d][t] |= all;
        }
      }
      for (int64_t t = 0; t < c_.kernel[2]; ++t) {
        const int64_t at = x[2] + reach_[2][t];
        const int64_t low = std::clamp<int64_t>(-at, 0, n),
                      high = std::clamp<int64_t>(c_.source[2] - at, 0, n);
        if (low < high) along[2][t] |= (lowest(high) & ~lowest(low)) << lane;
      }
      lane += n;
      x[2] += n;
      if (x[2] < c_.output[2]) continue;
      x[2] = 0;
      if (++x[1] < c_.output[1]) continue;
      x[1] = 0;
      if (++x[0] == c_.output[0]) x[0] = 0;
    }
    for (const uint32_t z : along[0]) {
      for (const uint32_t v : along[1]) {
        for (const uint32_t h : along[2]) *mask++ = z & v & h;
      }
    }
  }
}

void Patch::flat_runs(int64_t begin, int64_t end, const Tensor& tensor, const int64_t* first,
                      const int64_t* step, std::vector<OutputRun>& runs) const {
  const bool whole = compact(tensor) && step[0] * step[1] * step[2] == 1;
  const int64_t image = image_points(), run = whole ? image : c_.output[2];
  for (int64_t point = begin; point < end;) {
    const int64_t count = std::min(end - point, run - point % run);
    const int64_t at[kAxes] = {point % image / (c_.output[1] * c_.output[2]),
                               point / c_.output[2] % c_.output[1], point % c_.output[2]};
    int64_t offset = point / image * tensor.strides[0];
    for (int d = 0; d < kAxes; ++d) offset += (first[d] + at[d] * step[d]) * tensor.strides[2 + d];
    runs.push_back({point - begin, count, offset});
    point += count;
  }
}

}  // namespace symconv::cpu
