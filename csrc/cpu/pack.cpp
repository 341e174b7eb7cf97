// Folding and packing of weights: see pack.h.
#include "pack.h"

#include <algorithm>

namespace symconv::cpu {

Packing::Packing(const Convolution& convolution, const Patch& patch, int64_t columns, int rows, bool by_v)
    : convolution_(convolution),
      patch_(patch),
      panel_rows_(rows),
      taps_(convolution.taps()),
      fold_(convolution.fold()) {
  int64_t before = 0;
  for (const Chunk& chunk : patch.chunks()) {
    before_.push_back(before);
    before += chunk.columns;
    const int64_t count = ceil_div(chunk.columns, columns), each = ceil_div(chunk.columns, count);
    std::vector<Piece> pieces;
    for (int64_t first = 0; first < chunk.columns; first += each) {
      pieces.push_back({first, std::min(each, chunk.columns - first)});
    }
    pieces_.push_back(std::move(pieces));
  }
  int64_t rows_before = 0;
  for (const Block& block : convolution.rows) {
    rows_before_.push_back(rows_before);
    rows_before += block.orbits;
    sums_.emplace_back();
    positions_.emplace_back(fold_.total());
    by_v ? plan_by_v(block, sums_.back(), positions_.back())
         : plan_by_class(block, sums_.back(), positions_.back());
  }
}

void Sum::add(int64_t first_coefficient, int64_t coefficients) {
  if (!runs.empty() && runs.back().first + runs.back().count == first_coefficient) {
    runs.back().count += coefficients;
  } else {
    runs.push_back({first_coefficient, coefficients});
  }
  count += coefficients;
}

void Packing::plan_by_class(const Block& block, std::vector<Sum>& sums,
                            std::vector<int64_t>& position) const {
  int64_t next = 0;
  for (int q = 0; q < block.size(); ++q) {
    Sum& sum = sums.emplace_back();
    sum.slot = q;
    sum.first = next;
    for (int c = 0; c < fold_.classes(); ++c) {
      const int64_t first = fold_.first(fold_.parity(c)), count = fold_.count(fold_.parity(c));
      if (count == 0 || slot_of(block.mask, fold_.parity(c)) != q) continue;
      sum.add(first, count);
      for (int64_t k = 0; k < count; ++k) position[first + k] = next++;
    }
  }
}

void Packing::plan_by_v(const Block& block, std::vector<Sum>& sums, std::vector<int64_t>& position) const {
  const Fold& patch = patch_.fold();
  const bool apart = patch.kernel[1] < fold_.kernel[1];
  int64_t next = 0;
  // The coefficients of one tap (or pair) along v that slot q reads.
  const auto add = [&](int q, int odd_v, int64_t v, Sum& sum) {
    for (int c = 0; c < fold_.classes(); ++c) {
      const int parity = fold_.parity(c);
      if ((parity & kV) != odd_v || slot_of(block.mask, parity) != q) continue;
      const int64_t z_count = fold_.extent(parity, 0), h_count = fold_.extent(parity, 2);
      for (int64_t z = 0; z < z_count && h_count > 0; ++z) {
        const int64_t first = fold_.first(parity) + (z * fold_.extent(parity, 1) + v) * h_count;
        sum.add(apart ? patch.first(parity & ~kV) + z * h_count : first, h_count);
        for (int64_t h = 0; h < h_count; ++h) position[first + h] = next++;
      }
    }
  };
  for (int q = 0; q < block.size(); ++q) {
    const size_t before = sums.size();
    for (const int odd_v : {0, fold_.axes & kV}) {
      if (odd_v == 0 && sums.size() > before) break;  // v is not folded: all its taps are there
      for (int64_t v = 0; v < fold_.extent(odd_v, 1); ++v) {
        if (apart || sums.size() == before) {
          sums.emplace_back();
          sums.back().slot = q;
          sums.back().first = next;
        }
        Sum& sum = sums.back();
        add(q, odd_v, v, sum);
        if (!apart) continue;
        if (sum.count == 0) {
          sums.pop_back();
          continue;
        }
        sum.taps.push_back({v, 1});
        const int64_t mirrored = fold_.kernel[1] - 1 - v;
        if ((fold_.axes & kV) && mirrored != v) sum.taps.push_back({mirrored, sign(odd_v, kV)});
      }
    }
  }
}

template <typename T>
void Packing::pack(const Kernels<T>& kernels, const Tensor& weight, T* packed, const Threads& threads) const {
  const Convolution& c = convolution_;
  // Dimension 0 of the weight is A: the rows of an fprop, the columns of a dgrad; its groups follow one
  // another there.
  const int64_t row_stride = weight.strides[c.rows_are_a ? 0 : 1],
                column_stride = weight.strides[c.rows_are_a ? 1 : 0];
  const int64_t group_stride = weight.strides[0] * (c.rows_are_a ? c.row_filters() : c.column_filters());
  const int64_t element = element_size(weight.dtype);
  TapOffsets offsets[kAxes];
  for (int d = 0; d < kAxes; ++d) {
    for (int64_t t = 0; t < c.kernel[d]; ++t) {
      offsets[d].push_back((c.tap_first[d] + t * c.tap_step[d]) * weight.strides[2 + d]);
    }
  }
  struct Panel {
    size_t chunk;
    Piece piece;
    size_t block;
    int64_t row;
  };
  std::vector<Panel> panels;
  std::vector<std::vector<TapSet>> sets;
  for (size_t b = 0; b < c.rows.size(); ++b) {
    sets.push_back(tap_sets(fold_, 0, offsets, positions_[b]));
  }
  // Filter by filter, so that the weight is read from its beginning to its end.
  for (size_t b = 0; b < c.rows.size(); ++b) {
    for (int64_t row = 0; row < c.rows[b].orbits; row += panel_rows_) {
      for (size_t k = 0; k < patch_.chunks().size(); ++k) {
        for (const Piece& piece : pieces_[k]) panels.push_back({k, piece, b, row});
      }
    }
  }
  const int64_t per_group = static_cast<int64_t>(panels.size());
  threads.run(c.groups * per_group, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / per_group;
      const Panel& panel = panels[i % per_group];
      const Chunk& chunk = patch_.chunks()[panel.chunk];
      const int64_t column = c.columns[chunk.block].first + chunk.first + panel.piece.first;
      const int64_t row = c.rows[panel.block].first + panel.row, columns = panel.piece.columns;
      const int rows = static_cast<int>(std::min(panel_rows_, c.rows[panel.block].orbits - panel.row));
      kernels.fold_weight(weight.dtype, sets[panel.block].data(), static_cast<int>(sets[panel.block].size()),
                          static_cast<const char*>(weight.data) +
                              (group * group_stride + row * row_stride + column * column_stride) * element,
                          row_stride, rows, column_stride, columns,
                          packed + offset(group, panel.chunk, panel.piece, panel.block, panel.row),
                          columns * rows);
    }
  });
}

template void Packing::pack<float>(const Kernels<float>&, const Tensor&, float*, const Threads&) const;
template void Packing::pack<double>(const Kernels<double>&, const Tensor&, double*, const Threads&) const;

}  // namespace symconv::cpu
