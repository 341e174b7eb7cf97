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
  // Sections and planes begin where vectors do. An odd number of vectors keeps the planes of neighbouring
  // columns apart in the caches.
  section_ = ceil_div(before_ + tiling_.rows + after_, lanes_) * lanes_;
  for (int64_t t = 0; t < c_.kernel[0]; ++t) offsets[0][t] = before_ + t * section_;
  for (int64_t t = 0; t < c_.kernel[1]; ++t) offsets[1][t] = reach_[1][t] * width;
  offsets[2] = reach_[2];
  // Where a table's reads are not masked, whole vectors are read past the last point.
  plane_ = c_.kernel[0] * section_ + 2 * lanes_;
  if (plane_ / lanes_ % 2 == 0) plane_ += lanes_;
}

bool Patch::compact(const Tensor& tensor) const {
  return (c_.output[1] == 1 || tensor.strides[3] == c_.output[2] * tensor.strides[4]) &&
         (c_.output[0] == 1 || tensor.strides[2] == c_.output[1] * c_.output[2] * tensor.strides[4]);
}

int64_t Patch::even_points(const Tensor& tensor) const {
  if (!compact(tensor)) return c_.output[2];
  const bool together = c_.batch == 1 || tensor.strides[0] == image_points() * tensor.strides[4];
  return (together ? c_.batch : 1) * image_points();
}

void Patch::flat_staging(const Tile& tile, const Tensor& source, std::vector<StagedRun>& runs) const {
  const int64_t image = image_points(), run = even_points(source);
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

void Patch::flat_moves(const Tile& tile, int64_t panel, const Tensor* source, std::vector<Move>& moves,
                       std::vector<int>& ends, std::vector<uint32_t>& masks) const {
  const int64_t points = this->points(tile), image = image_points(), first = tile.first_row;
  std::vector<uint32_t> along[kAxes];
  for (int64_t i = 0; i < points; i += lanes_) {
    const int64_t end = std::min(i + lanes_, points);
    for (int64_t q = i; q < end;) {  // a move, or one for each image
      const int64_t point = first + q, target = q % panel;
      int64_t element = q, last = end;
      int64_t lanes = std::min<int64_t>(lanes_, points - q);
      if (source) {
        element = (point / image - first / image) * source->strides[0] + point % image - first % image;
        lanes = std::min(lanes, image - point % image);
        last = std::min(end, q + lanes);
      }
      moves.push_back({element, static_cast<int32_t>(target),
                       static_cast<int32_t>(std::min<int64_t>(lanes_, panel - target))});
      add_masks(point, lanes, along, masks);
      q = last;
    }
    if (i % panel + lanes_ >= panel || end == points) ends.push_back(static_cast<int>(moves.size()));
  }
}

void Patch::add_masks(int64_t point, int64_t lanes, std::vector<uint32_t> (&along)[kAxes],
                      std::vector<uint32_t>& masks) const {
  int64_t x[kAxes] = {point / (c_.output[1] * c_.output[2]) % c_.output[0],
                      point / c_.output[2] % c_.output[1], point % c_.output[2]};
  for (int d = 0; d < kAxes; ++d) along[d].assign(c_.kernel[d], 0);
  // The lowest n bits, n <= 32.
  const auto lowest = [](int64_t n) { return static_cast<uint32_t>((uint64_t{1} << n) - 1); };
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
      const int64_t low = std::clamp<int64_t>(-at, 0, n), high = std::clamp<int64_t>(c_.source[2] - at, 0, n);
      if (low < high) along[2][t] |= (lowest(high) & ~lowest(low)) << lane;
    }
    lane += n;
    x[2] = 0;
    if (++x[1] < c_.output[1]) continue;
    x[1] = 0;
    if (++x[0] == c_.output[0]) x[0] = 0;
  }
  for (const uint32_t z : along[0]) {
    for (const uint32_t v : along[1]) {
      for (const uint32_t h : along[2]) masks.push_back(z & v & h);
    }
  }
}

void Patch::flat_runs(int64_t begin, int64_t end, const Tensor& tensor, const int64_t* first,
                      const int64_t* step, std::vector<OutputRun>& runs) const {
  const bool every_point = step[0] * step[1] * step[2] == 1;
  const int64_t image = image_points(), run = every_point ? even_points(tensor) : c_.output[2];
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
