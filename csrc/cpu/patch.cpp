// Staging and folding: see patch.h.
#include "patch.h"

#include <algorithm>
#include <numeric>

namespace symconv::cpu {
Patch::Patch(const Convolution& convolution, const Tiling& tiling, int lanes, int64_t element_bytes)
    : c_(convolution), tiling_(tiling), fold_(convolution.fold()), lanes_(lanes) {
  row_tiles_ = tiling_.row_tiles > 0 ? tiling_.row_tiles : ceil_div(row_count(), tiling_.rows);
  width_tiles_ = tiling_.flat ? 1 : ceil_div(c_.output[2], tiling_.width);
  if (c_.taps() == 0) return;  // nothing to read: no chunks
  for (size_t b = 0; b < c_.columns.size(); ++b) {
    const Block& block = c_.columns[b];
    for (int64_t first = 0; first < block.orbits; first += tiling_.columns) {
      chunks_.push_back(
          {static_cast<int>(b), first, std::min(tiling_.columns, block.orbits - first), block.size()});
      max_planes_ = std::max(max_planes_, chunks_.back().planes());
    }
  }

  TapOffsets offsets[kAxes];
  for (int d = 0; d < kAxes; ++d) offsets[d].resize(c_.kernel[d]);
  tiling_.flat ? plan_flat(offsets) : plan_rows(offsets);
  // An odd number of cache lines, so that neighbouring planes fall into different sets.
  const int64_t line = 64 / element_bytes;
  plane_ = (ceil_div(plane_, line) | 1) * line;

  std::vector<int64_t> position(fold_.total());
  std::iota(position.begin(), position.end(), 0);
  for (const Block& block : c_.columns) {
    Sets sets;
    sets.taps = symconv::cpu::tap_sets(fold_, block.mask, offsets, position);
    for (int q = 0; q < block.size(); ++q) {
      bool read = false;
      for (int i = 0; i < fold_.classes(); ++i) {
        const int parity = fold_.parity(i);
        read = read || (fold_.count(parity) > 0 && slot_of(block.mask, parity) == q);
      }
      if (read) sets.slots.push_back(q);
    }
    sets.staged = plane_sets(block.mask, sets.slots, offsets, plane_);
    if (tiling_.flat && block.mask == 0) {
      const int64_t steps[kAxes] = {c_.output[1] * c_.output[2], c_.output[2], 1};
      TapOffsets source[kAxes];
      for (int d = 0; d < kAxes; ++d) {
        for (const int64_t reach : reach_[d]) source[d].push_back(reach * steps[d]);
      }
      sets.unstaged = plane_sets(0, sets.slots, source, 0);
    }
    sets_.push_back(std::move(sets));
  }
}

std::vector<PlaneSet> Patch::plane_sets(int mask, const std::vector<int>& slots,
                                        const TapOffsets (&offsets)[kAxes], int64_t plane) const {
  std::vector<int64_t> position(fold_.total());
  std::iota(position.begin(), position.end(), 0);
  TapOffsets numbers[kAxes];  // of the taps, in the order of the masks
  for (int64_t t = 0; t < c_.kernel[0]; ++t) numbers[0].push_back(t * c_.kernel[1] * c_.kernel[2]);
  for (int64_t t = 0; t < c_.kernel[1]; ++t) numbers[1].push_back(t * c_.kernel[2]);
  for (int64_t t = 0; t < c_.kernel[2]; ++t) numbers[2].push_back(t);
  const std::vector<TapSet> taps = symconv::cpu::tap_sets(fold_, 0, offsets, position);
  const std::vector<TapSet> names = symconv::cpu::tap_sets(fold_, 0, numbers, position);
  std::vector<PlaneSet> sets;
  for (size_t i = 0; i < taps.size(); ++i) {
    PlaneSet set{};
    set.terms = taps[i].terms;
    set.shared = true;
    const int paired = fold_.coefficient(0, static_cast<int64_t>(i)).paired;
    for (int q = 0; q < set.terms; ++q) {
      const int slot = slot_of(mask, subset(paired, q));
      set.plane[q] = (std::find(slots.begin(), slots.end(), slot) - slots.begin()) * plane;
      set.tap[q] = taps[i].tap[0][q];
      set.coefficient[q] = taps[i].coefficient[q];
      set.mask[q] = static_cast<int>(names[i].tap[0][q]);
      set.shared = set.shared && set.plane[q] == set.plane[0];
    }
    sets.push_back(set);
  }
  return sets;
}

void Patch::plan_rows(TapOffsets (&offsets)[kAxes]) {
  // h: the taps share strips, one for each residue modulo the stride, unless they lie so far apart that a
  // strip for each tap is shorter.
  const int64_t k = c_.kernel[2], s = c_.stride[2], d = c_.dilation[2];
  if (k > 0 && tiling_.width + (k - 1) * d / s <= k * tiling_.width) {
    for (int64_t phase = 0; phase < s; ++phase) {
      int64_t count = 0;
      for (int64_t t = 0; t < k; ++t) {
        if (t * d % s != phase) continue;
        offsets[2][t] = row_pitch_ + t * d / s;
        count = tiling_.width + t * d / s;
      }
      if (count == 0) continue;
      strips_.push_back({phase, count, row_pitch_});
      row_pitch_ += count;
    }
  } else {
    for (int64_t t = 0; t < k; ++t) {
      offsets[2][t] = row_pitch_;
      strips_.push_back({t * d, tiling_.width, row_pitch_});
      row_pitch_ += tiling_.width;
    }
  }
  // v: the same for rows. A tile has at most this many rows of one slice of an image:
  const int64_t rows = std::min(tiling_.rows, c_.output[1]);
  const int64_t shared = (rows - 1) * c_.stride[1] + (c_.kernel[1] - 1) * c_.dilation[1] + 1;
  shared_rows_ = shared <= c_.kernel[1] * rows;
  point_rows_ = shared_rows_ ? c_.stride[1] : 1;
  tap_rows_ = shared_rows_ ? c_.dilation[1] : rows;
  section_rows_ = shared_rows_ ? shared : c_.kernel[1] * rows;
  for (int64_t t = 0; t < c_.kernel[1]; ++t) offsets[1][t] = t * tap_rows_ * row_pitch_;
  // z: each slice has its own rows for every tap.
  for (int64_t t = 0; t < c_.kernel[0]; ++t) offsets[0][t] = t * section_rows_ * row_pitch_;
  // A tile of `rows_` rows touches at most this many slices.
  const int64_t slices =
      std::min(c_.batch * c_.output[0], (tiling_.rows + c_.output[1] - 2) / c_.output[1] + 1);
  plane_ = slices * c_.kernel[0] * section_rows_ * row_pitch_ + 2 * lanes_;
}

Tile Patch::tile(int64_t index) const {
  const int64_t number = index / width_tiles_, first = index % width_tiles_ * tiling_.width;
  const int64_t width = tiling_.flat ? 1 : c_.output[2], pieces = ceil_div(row_count(), at_once());
  const auto edge = [&](int64_t i) { return std::min(row_count(), part(pieces, row_tiles_, i) * at_once()); };
  return {edge(number), edge(number + 1), first, std::min(first + tiling_.width, width)};
}

void Patch::staging(const Tile& tile, const Tensor& source, std::vector<StagedRun>& runs) const {
  runs.clear();
  if (tiling_.flat) return flat_staging(tile, source, runs);
  const int64_t step = c_.stride[2];
  int64_t section = 0;  // staged rows so far
  for_each_slice(tile, [&](int64_t row, int64_t rows, int64_t) {
    const int64_t y = row % c_.output[1], slice = row / c_.output[1];
    const int64_t n = slice / c_.output[0], z = slice % c_.output[0];
    for (int64_t tz = 0; tz < c_.kernel[0]; ++tz, section += section_rows_) {
      const int64_t sz = z * c_.stride[0] - c_.padding[0] + tz * c_.dilation[0];
      for (int64_t r = 0; r < section_rows_; ++r) {
        // Which source row this staged row holds; not every one is needed where the slice has fewer rows.
        bool needed;
        int64_t sy = y * c_.stride[1] - c_.padding[1];
        if (shared_rows_) {
          needed = r <= (rows - 1) * c_.stride[1] + (c_.kernel[1] - 1) * c_.dilation[1];
          sy += r;
        } else {
          needed = r % tap_rows_ < rows;
          sy += r % tap_rows_ * c_.stride[1] + r / tap_rows_ * c_.dilation[1];
        }
        const bool inside = needed && sz >= 0 && sz < c_.source[0] && sy >= 0 && sy < c_.source[1];
        for (const Strip& strip : strips_) {
          const int64_t start = tile.first * step - c_.padding[2] + strip.start;
          // Points i of the strip lie inside the source for low <= i < high.
          int64_t low = strip.count, high = strip.count;
          if (inside) {
            low = std::min(strip.count, start < 0 ? ceil_div(-start, step) : 0);
            high = start < c_.source[2] ? std::min(strip.count, ceil_div(c_.source[2] - start, step)) : 0;
            if (high <= low) low = high = strip.count;
          }
          runs.push_back({(section + r) * row_pitch_ + strip.position, low, high, strip.count,
                          n * source.strides[0] + sz * source.strides[2] + sy * source.strides[3] +
                              (start + low * step) * source.strides[4]});
        }
      }
    }
  });
  // What the last moves read past the last row.
  const int64_t past = 2 * lanes_;
  runs.push_back({section * row_pitch_, past, past, past, 0});
}

void Patch::ahead(const Tile& tile, const Tensor& source, std::vector<OutputRun>& runs) const {
  runs.clear();
  if (tiling_.flat) {
    const int64_t reach = after_ + std::max<int64_t>(0, reach_[0].back()) * c_.output[1] * c_.output[2];
    const int64_t last = std::min(tile.last_row + reach, row_count());
    constexpr int64_t kFirst[kAxes] = {0, 0, 0}, kStep[kAxes] = {1, 1, 1};
    // The tile before read the first of them.
    return flat_runs(std::min(tile.first_row + reach, last), last, source, kFirst, kStep, runs);
  }
  std::vector<StagedRun> staged;
  staging(tile, source, staged);
  for (const StagedRun& run : staged) {
    if (run.high > run.low) runs.push_back({run.position, run.high - run.low, run.source});
  }
}

template <typename T>
void Patch::stage(const Kernels<T>& kernels, const std::vector<StagedRun>& runs, const Chunk& chunk,
                  int64_t group, const Tensor& source, T* staged) const {
  if (runs.empty()) return;
  const Block& block = c_.columns[chunk.block];
  const int64_t element = element_size(source.dtype), point_step = c_.stride[2] * source.strides[4];
  const int64_t column = chunk.copies * plane_;
  const char* from[kMaxOrbit];  // the first column's copies, by the rank of their reflection
  for (int copy = 0; copy < chunk.copies; ++copy) {
    const int64_t channel = group * c_.column_channels + block.channel(chunk.first, copy);
    from[subset_index(block.mask, reflection(block.mask, copy))] =
        static_cast<const char*>(source.data) + channel * source.strides[1] * element;
  }
  const auto pad = [&](const StagedRun& run, T* to) {
    if (run.low == 0 && run.high == run.count) return;
    for (int64_t j = 0; j < chunk.columns; ++j) {
      T* row = to + j * column + run.position;
      for (int64_t i = 0; i < run.low; ++i) row[i] = T(0);
      for (int64_t i = run.high; i < run.count; ++i) row[i] = T(0);
    }
  };
  // Straight to slots, unless vectors of channels next to each other would be mostly empty.
  if (chunk.copies > 1 && (source.strides[1] != 1 || 2 * chunk.columns > kernels.lanes)) {
    std::vector<PointRun> points;
    for (const StagedRun& run : runs) {
      if (run.high > run.low) points.push_back({run.source, run.position + run.low, run.high - run.low});
      for (size_t i = 0; i < sets_[chunk.block].slots.size(); ++i) pad(run, staged + i * plane_);
    }
    return stage_slots(kernels, points, chunk, source.dtype, from, source.strides[1], point_step, staged);
  }

  for (int copy = 0; copy < chunk.copies; ++copy) {
    T* to = staged + copy * plane_;
    if (point_step == 1) {  // planar: plane by plane, along the rows of one channel
      for (int64_t j = 0; j < chunk.columns; ++j) {
        kernels.stage_rows(source.dtype, from[copy] + j * source.strides[1] * element, runs.data(),
                           static_cast<int64_t>(runs.size()), to + j * column);
      }
      continue;
    }
    for (const StagedRun& run : runs) {
      if (run.high > run.low) {
        kernels.stage(source.dtype, from[copy] + run.source * element, source.strides[1], point_step,
                      chunk.columns, run.high - run.low, to + run.position + run.low, column);
      }
      pad(run, to);
    }
  }
  if (chunk.copies == 1) return;
  // Copies to slots, in place.
  for (int copy = 0; copy < chunk.copies; ++copy) {
    from[copy] = reinterpret_cast<const char*>(staged + copy * plane_);
  }
  const DType computed = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
  stage_slots(kernels, {{0, 0, runs.back().position + runs.back().count}}, chunk, computed, from, column, 1,
              staged);
}

template <typename T>
void Patch::stage_slots(const Kernels<T>& kernels, const std::vector<PointRun>& runs, const Chunk& chunk,
                        DType dtype, const char* const* from, int64_t column_stride, int64_t point_stride,
                        T* staged) const {
  const Block& block = c_.columns[chunk.block];
  const std::vector<int>& slots = sets_[chunk.block].slots;
  SlotsArguments<T> a{};
  a.slots = chunk.copies;
  for (int e = 0; e < chunk.copies; ++e) a.source[e] = from[e];
  a.orbit_stride = column_stride;
  a.point_stride = point_stride;
  a.orbits = chunk.columns;
  a.runs = runs.data();
  a.run_count = static_cast<int>(runs.size());
  a.classes = static_cast<int>(slots.size());
  std::copy(slots.begin(), slots.end(), a.slot_of);
  a.target = staged;
  a.class_step = plane_;
  a.orbit_step = block.size() * plane_;
  a.point_step = 1;
  kernels.slots(dtype, a);
}

template <typename Visit>
void Patch::for_each_slice(const Tile& tile, Visit&& visit) const {
  int64_t point = 0;
  for (int64_t row = tile.first_row; row < tile.last_row;) {
    const int64_t rows = std::min(tile.last_row - row, c_.output[1] - row % c_.output[1]);
    visit(row, rows, point);
    row += rows;
    point += rows * tile.width();
  }
}

void Patch::moves(const Tile& tile, int64_t panel, const Tensor* source, std::vector<Move>& moves,
                  std::vector<int>& ends, std::vector<uint32_t>& masks) const {
  moves.clear();
  ends.clear();
  masks.clear();
  if (tiling_.flat) return flat_moves(tile, panel, source, moves, ends, masks);
  int64_t target = 0;                                     // next point of the panel
  const auto add = [&](int64_t element, int64_t count) {  // `count` points that lie next to each other
    while (count > 0) {
      const int64_t length = std::min(count, panel - target);
      for (int64_t i = 0; i < length; i += lanes_) {
        int64_t at = i, written = lanes_;
        if (i + lanes_ > length) {
          if (length >= lanes_) {
            at = length - lanes_;  // overlap the one before
          } else if (target + lanes_ > panel) {
            written = length;
          }
        }
        moves.push_back({element + at, static_cast<int32_t>(target + at), static_cast<int32_t>(written)});
      }
      element += length;
      count -= length;
      target += length;
      if (target == panel) {
        ends.push_back(static_cast<int>(moves.size()));
        target = 0;
      }
    }
  };
  const int64_t width = tile.width();
  int64_t section = 0;  // staged rows before this slice: a section for every z tap
  for_each_slice(tile, [&](int64_t, int64_t rows, int64_t) {
    for (int64_t y = 0; y < rows; ++y) add((section + y * point_rows_) * row_pitch_, width);
    section += c_.kernel[0] * section_rows_;
  });
  if (target > 0) ends.push_back(static_cast<int>(moves.size()));
}

template <typename T>
bool Patch::in_place(const Kernels<T>& kernels, const Tensor& source) const {
  if (!tiling_.flat || !kernels.masked_reads || element_size(source.dtype) != sizeof(T) ||
      source.strides[4] != 1 || !compact(source) || (c_.batch > 1 && image_points() < kLeastImage * lanes_))
    return false;
  for (const Chunk& chunk : chunks_) {
    if (chunk.copies > 1) return false;
  }
  return true;
}

template <typename T>
Patch::Planes<T> Patch::unstaged(const Tile& tile, const Chunk& chunk, int64_t group,
                                 const Tensor& source) const {
  const int64_t channel = group * c_.column_channels + c_.columns[chunk.block].channel(chunk.first, 0);
  return {static_cast<const T*>(source.data) + tile.first_row / image_points() * source.strides[0] +
              channel * source.strides[1] + tile.first_row % image_points(),
          source.strides[1], false};
}

template <typename T>
void Patch::fold(const Chunk& chunk, int64_t first, int64_t columns, const std::vector<Move>& moves,
                 int begin, int count, const std::vector<uint32_t>& masks, const Planes<T>& planes, T* folded,
                 int64_t folded_row, FoldArguments<T>& f) const {
  const std::vector<PlaneSet>& sets = planes.staged ? sets_[chunk.block].staged : sets_[chunk.block].unstaged;
  f.at = {};
  f.sets = sets.data();
  f.set_count = static_cast<int>(sets.size());
  f.columns = columns;
  f.planes = planes.data + first * planes.column;
  f.column = planes.column;
  f.moves = moves.data() + begin;
  f.move_count = count;
  f.mask_row = c_.taps();
  f.masks = tiling_.flat ? masks.data() + begin * f.mask_row : nullptr;
  f.folded = folded;
  f.folded_row = folded_row;
}

void Patch::runs(const Tile& tile, int64_t begin, int64_t end, const Tensor& tensor,
                 std::vector<OutputRun>& runs) const {
  runs.clear();
  if (tiling_.flat) {
    return flat_runs(tile.first_row + begin, tile.first_row + end, tensor, c_.output_first, c_.output_step,
                     runs);
  }
  const int64_t width = tile.width(), step = width;
  const int64_t row_step = c_.output_step[1] * tensor.strides[3],
                point_step = c_.output_step[2] * tensor.strides[4];
  for_each_slice(tile, [&](int64_t row, int64_t rows, int64_t point) {
    if (point >= end || point + rows * step <= begin) return;
    const int64_t slice = row / c_.output[1], z = slice % c_.output[0], n = slice / c_.output[0];
    const int64_t base = n * tensor.strides[0] +
                         (c_.output_first[0] + z * c_.output_step[0]) * tensor.strides[2] +
                         c_.output_first[1] * tensor.strides[3] + row % c_.output[1] * row_step +
                         c_.output_first[2] * tensor.strides[4] + tile.first * point_step;
    const int64_t skip = point < begin ? (begin - point) / step : 0;  // whole rows before the panel
    for (int64_t y = skip; y < rows && point + y * step < end; ++y) {
      const int64_t first = std::max(begin, point + y * step), last = std::min(end, point + y * step + width);
      if (first >= last) continue;
      const int64_t offset = base + y * row_step + (first - point - y * step) * point_step;
      if (!runs.empty() && first - begin == runs.back().point + runs.back().count &&
          offset == runs.back().offset + runs.back().count * point_step) {
        runs.back().count += last - first;
      } else {
        runs.push_back({first - begin, last - first, offset});
      }
    }
  });
}

void Patch::point_runs(const Tile& tile, int64_t piece, std::vector<PointRun>& runs,
                       std::vector<int>& ends) const {
  runs.clear();
  ends.clear();
  int64_t target = 0, section = 0;
  for_each_slice(tile, [&](int64_t, int64_t rows, int64_t) {
    for (int64_t y = 0; y < rows; ++y) {
      int64_t source = (section + y * point_rows_) * row_pitch_;
      for (int64_t left = tile.width(); left > 0;) {
        const int64_t count = std::min(left, piece - target);
        runs.push_back({source, target, count});
        source += count;
        left -= count;
        target += count;
        if (target < piece) continue;
        ends.push_back(static_cast<int>(runs.size()));
        target = 0;
      }
    }
    section += c_.kernel[0] * section_rows_;
  });
  if (target > 0) ends.push_back(static_cast<int>(runs.size()));
}

#define SYMCONV_INSTANTIATE(T)                                                                           \
  template void Patch::stage<T>(const Kernels<T>&, const std::vector<StagedRun>&, const Chunk&, int64_t, \
                                const Tensor&, T*) const;                                                \
  template bool Patch::in_place<T>(const Kernels<T>&, const Tensor&) const;                              \
  template Patch::Planes<T> Patch::unstaged<T>(const Tile&, const Chunk&, int64_t, const Tensor&) const; \
  template void Patch::fold<T>(const Chunk&, int64_t, int64_t, const std::vector<Move>&, int, int,       \
                               const std::vector<uint32_t>&, const Planes<T>&, T*, int64_t,              \
                               FoldArguments<T>&) const;
SYMCONV_INSTANTIATE(float)
SYMCONV_INSTANTIATE(double)

}  // namespace symconv::cpu
