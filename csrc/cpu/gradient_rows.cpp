// The rows of wgrad's GEMM: see gradient_rows.h.
#include "gradient_rows.h"

#include <algorithm>

namespace symconv::cpu {

template <typename T>
GradientRows<T>::GradientRows(const Convolution& convolution, const Patch& patch,
                              const WgradSchedule& schedule, const Kernels<T>& kernels)
    : c_(convolution),
      patch_(patch),
      kernels_(kernels),
      by_v_(schedule.by_v),
      column_lanes_(schedule.column_lanes),
      fold_(convolution.fold()),
      classes_(fold_.classes()),
      rows_(convolution.row_filters()) {
  const int64_t line = 64 / sizeof(T), lanes = kernels.lanes;  // odd numbers of lines: see Patch::plane_
  int64_t points = patch.max_points();
  // Whole vectors are written from wherever an image's rows begin.
  if (by_v_) points += (c_.rows_above() + c_.rows_below()) * schedule.tiling.width + lanes;
  points_ = (ceil_div(ceil_div(points, lanes) * lanes, line) | 1) * line;
  row_lanes_ = (ceil_div(ceil_div(rows_, lanes) * lanes, line) | 1) * line;
  if (column_lanes_ && rows_ < row_lanes_ / 2) row_lanes_ = rows_;  // no vectors of them are read
  plan_products();
}

template <typename T>
void GradientRows<T>::plan_products() {
  const Fold& fold = patch_.fold();
  positions_.resize(fold_.total());
  int64_t at = 0;
  for (int i = 0; i < fold.classes(); ++i) {
    const int parity = fold.parity(i);
    for (const int odd : {0, static_cast<int>(kV)}) {
      if (odd && !(by_v_ && fold_.axes & kV)) continue;
      const int64_t coefficients = by_v_ ? fold_.extent(parity | odd, 1) : 1;  // along v
      for (int64_t v = 0; v < coefficients; ++v) {
        products_.push_back({fold.first(parity), fold.count(parity), at});
        if (by_v_) {
          const int64_t mirrored = fold_.kernel[1] - 1 - v;
          class_of_.push_back(subset_index(fold_.axes, parity | odd));
          taps_.push_back({{v, 1}});
          if (fold_.axes & kV && mirrored != v) taps_.back().push_back({mirrored, odd ? -1 : 1});
        }
        // A class's coefficients are in the order z, v, h.
        const int64_t h = fold_.extent(parity, 2);
        for (int64_t k = 0; k < fold.count(parity); ++k) {
          const int64_t index = by_v_ ? (k / h * coefficients + v) * h + k % h : k;
          positions_[fold_.first(parity | odd) + index] = at++;
        }
      }
    }
  }
}

template <typename T>
bool GradientRows<T>::reaches(int64_t row, int64_t v) const {
  const int64_t y = row % c_.output[1] - c_.reach_v(v);
  return y >= 0 && y < c_.output[1];
}

template <typename T>
auto GradientRows<T>::prepare(int64_t group, const Tile& tile, const Tensor& grad_output,
                              GradientBuffers& buffers) const -> Rows {
  if (!by_v_) return slots(source(group, tile, grad_output, buffers), buffers);
  // From above a row of the source taps reach it that lie below the middle, and the other way round.
  const Tile around{std::max<int64_t>(0, tile.first_row - c_.rows_below()),
                    std::min(c_.output_rows(), tile.last_row + c_.rows_above()), tile.first, tile.last};
  const Source source = this->source(group, around, grad_output, buffers);
  plan_moved(tile, around.first_row, buffers.moves);
  const int64_t products = static_cast<int64_t>(products_.size());
  if (!source.planar()) {
    const Rows slots = this->slots(source, buffers);
    const Rows moved{buffers.moved.get<T>(products * slots.product_step), slots.product_step, 1,
                     slots.point_step};
    add_moved(buffers.moves, slots, 0, rows_, moved);
    return moved;
  }
  // A few orbits at a time, whose slots stay in L1 until they are added up.
  const Rows moved{buffers.moved.get<T>(products * rows_ * points_), rows_ * points_, points_, 1};
  const int64_t bytes = classes_ * points_ * static_cast<int64_t>(sizeof(T));
  const int64_t at_once = std::clamp<int64_t>(kernels_.l1_bytes / 2 / bytes, 1, rows_);
  const Rows slots{buffers.planes.get<T>(classes_ * at_once * points_), at_once * points_, points_, 1};
  for (const Block& block : c_.rows) {
    for (int64_t first = 0; first < block.orbits; first += at_once) {
      const int64_t count = std::min(at_once, block.orbits - first);
      add_slots(source, block, first, count, slots);
      add_moved(buffers.moves, slots, block.first + first, count, moved);
    }
  }
  return moved;
}

template <typename T>
void GradientRows<T>::plan_moved(const Tile& tile, int64_t slots_row, std::vector<MovedRun>& moves) const {
  const int64_t width = tile.width();
  moves.clear();
  for (int64_t first = tile.first_row; first < tile.last_row;) {
    // At the edges of an image the taps reach some rows only.
    const auto alike = [&](int64_t row) {
      for (int64_t v = 0; v < c_.kernel[1]; ++v) {
        if (reaches(row, v) != reaches(first, v)) return false;
      }
      return true;
    };
    int64_t last = first + 1;
    while (last < tile.last_row && alike(last)) ++last;
    for (size_t i = 0; i < products_.size(); ++i) {
      MovedRun move{static_cast<int64_t>(i), (first - tile.first_row) * width, (last - first) * width, 0, {}};
      for (const SignedTap& tap : taps_[i]) {
        if (!reaches(first, tap.v)) continue;
        move.term[move.terms++] = {(first - c_.reach_v(tap.v) - slots_row) * width, tap.sign};
      }
      moves.push_back(move);
    }
    first = last;
  }
}

template <typename T>
void GradientRows<T>::add_moved(const std::vector<MovedRun>& moves, const Rows& slots, int64_t first,
                                int64_t count, const Rows& moved) const {
  for (const MovedRun& move : moves) {
    SignedRow<T> terms[2];
    for (int t = 0; t < move.terms; ++t) {
      terms[t] = {slots.at(class_of_[move.product], 0, move.term[t].point),
                  static_cast<T>(move.term[t].sign)};
    }
    if (slots.point_step != 1) {  // all rows of a point lie next to each other
      kernels_.add_rows(terms, move.terms, move.count * row_lanes_, moved.at(move.product, 0, move.point));
      continue;
    }
    for (int64_t r = 0; r < count; ++r) {
      kernels_.add_rows(terms, move.terms, move.count, moved.at(move.product, first + r, move.point));
      for (int t = 0; t < move.terms; ++t) terms[t].data += slots.row_step;
    }
  }
}

template <typename T>
auto GradientRows<T>::source(int64_t group, const Tile& tile, const Tensor& grad_output,
                             GradientBuffers& buffers) const -> Source {
  const int64_t tile_points = patch_.points(tile);
  patch_.runs(tile, 0, tile_points, grad_output, buffers.outputs);
  buffers.runs.clear();
  for (const OutputRun& run : buffers.outputs) buffers.runs.push_back({run.offset, run.point, run.count});
  buffers.all.assign(1, {0, 0, tile_points});
  const int64_t offset = group * c_.row_channels * grad_output.strides[1] * element_size(grad_output.dtype);
  const Source source{static_cast<const char*>(grad_output.data) + offset, grad_output.dtype,
                      grad_output.strides[1], grad_output.strides[4], buffers.runs};
  const bool transposed = source.channel_stride == 1 && !source.planar() && narrow_blocks();
  return transposed ? to_planes(source, buffers) : source;
}

template <typename T>
auto GradientRows<T>::slots(const Source& source, GradientBuffers& buffers) const -> Rows {
  const bool planar = source.planar(), by_points = !planar || !column_lanes_;
  const Rows planes{buffers.planes.get<T>(planar ? classes_ * rows_ * points_ : 0), rows_ * points_, points_,
                    1};
  const Rows points{buffers.slots.get<T>(by_points ? classes_ * points_ * row_lanes_ : 0),
                    points_ * row_lanes_, 1, row_lanes_};
  for (const Block& block : c_.rows) {
    const Rows& all = planar ? planes : points;
    add_slots(source, block, 0, block.orbits,
              {all.at(0, block.first, 0), all.product_step, all.row_step, all.point_step});
  }
  if (planar && by_points) {
    SlotsArguments<T> a{};
    a.slots = a.classes = a.run_count = 1;
    a.orbit_stride = planes.row_step;
    a.point_stride = a.orbit_step = 1;
    a.orbits = rows_;
    a.runs = buffers.all.data();
    a.point_step = points.point_step;
    for (int i = 0; i < classes_; ++i) {
      a.source[0] = planes.at(i, 0, 0);
      a.target = points.at(i, 0, 0);
      kernels_.slots(kComputed, a);
    }
  }
  return by_points ? points : planes;
}

template <typename T>
void GradientRows<T>::add_slots(const Source& source, const Block& block, int64_t first, int64_t count,
                                const Rows& slots) const {
  SlotsArguments<T> a{};
  a.slots = block.size();
  a.orbit_stride = source.channel_stride;
  a.point_stride = source.point_stride;
  a.orbits = count;
  a.runs = source.runs.data();
  a.run_count = static_cast<int>(source.runs.size());
  a.classes = classes_;
  a.target = slots.data;
  a.class_step = slots.product_step;
  a.orbit_step = slots.row_step;
  a.point_step = slots.point_step;
  for (int copy = 0; copy < block.size(); ++copy) {
    a.source[subset_index(block.mask, reflection(block.mask, copy))] =
        static_cast<const char*>(source.data) +
        block.channel(first, copy) * source.channel_stride * element_size(source.dtype);
  }
  for (int i = 0; i < classes_; ++i) a.slot_of[i] = slot_of(block.mask, fold_.parity(i));
  kernels_.slots(source.dtype, a);
}

template <typename T>
bool GradientRows<T>::narrow_blocks() const {
  int64_t vectors = 0;
  for (const Block& block : c_.rows) vectors += block.size() * ceil_div(block.orbits, kernels_.lanes);
  return vectors >= 2 * ceil_div(c_.row_channels, kernels_.lanes);
}

template <typename T>
auto GradientRows<T>::to_planes(const Source& source, GradientBuffers& buffers) const -> Source {
  const int64_t plane = points_ + 128 / sizeof(T);
  T* target = buffers.channels.get<T>(c_.row_channels * plane);
  for (const PointRun& run : source.runs) {
    kernels_.stage(source.dtype,
                   static_cast<const char*>(source.data) + run.source * element_size(source.dtype), 1,
                   source.point_stride, c_.row_channels, run.count, target + run.target, plane);
  }
  return {target, kComputed, plane, 1, buffers.all};
}

template class GradientRows<float>;
template class GradientRows<double>;

}  // namespace symconv::cpu
