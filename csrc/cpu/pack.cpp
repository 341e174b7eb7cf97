// Folding and packing of weights: see pack.h.
#include "pack.h"

#include <algorithm>

#include "scratch.h"

namespace symconv::cpu {

Packing::Packing(const Convolution& convolution, const Patch& patch, int64_t columns, int rows, bool by_v,
                 int64_t tile_elements)
    : convolution_(convolution),
      patch_(patch),
      panel_rows_(rows),
      taps_(convolution.taps()),
      tile_elements_(tile_elements),
      fold_(convolution.fold()) {
  const auto whole = [&](int64_t n, int64_t of) { return tile_elements == 0 ? n : ceil_div(n, of) * of; };
  for (const Chunk& chunk : patch.chunks()) {
    before_.push_back(group_columns_);
    group_columns_ += whole(chunk.columns, kTileDepth);
    const int64_t count = ceil_div(chunk.columns, columns),
                  each = whole(ceil_div(chunk.columns, count), kTileDepth);
    std::vector<Piece> pieces;
    for (int64_t first = 0; first < chunk.columns; first += each) {
      pieces.push_back({first, std::min(each, chunk.columns - first)});
    }
    pieces_.push_back(std::move(pieces));
  }
  for (const Block& block : convolution.rows) {
    rows_before_.push_back(group_rows_);
    group_rows_ += whole(block.orbits, kTileRows);
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

void Packing::ahead(int64_t group, size_t chunk, const std::vector<RowRange>& rows, const void* packed,
                    int64_t element, Ahead& ahead) const {
  for (const Piece& piece : pieces_[chunk]) {
    for (size_t b = 0; b < rows.size(); ++b) {
      ahead.add_range(offset(group, chunk, piece, b, rows[b].first) * element,
                      taps_ * block_elements(rows[b].count(), piece.columns) * element);
    }
  }
  ahead.add_plane(packed);
  ahead.end_group();
}

// Dimension 0 of the weight is A: the rows of an fprop, the columns of a dgrad; its groups follow one another
// there.
Packing::Source::Source(const Packing& packing, const Tensor& weight) : packing_(packing), weight_(weight) {
  const Convolution& c = packing.convolution_;
  row_stride_ = weight.strides[c.rows_are_a ? 0 : 1];
  column_stride_ = weight.strides[c.rows_are_a ? 1 : 0];
  group_stride_ = weight.strides[0] * (c.rows_are_a ? c.row_filters() : c.column_filters());
  TapOffsets offsets[kAxes];
  for (int d = 0; d < kAxes; ++d) {
    for (int64_t t = 0; t < c.kernel[d]; ++t) {
      offsets[d].push_back((c.tap_first[d] + t * c.tap_step[d]) * weight.strides[2 + d]);
    }
  }
  for (size_t b = 0; b < c.rows.size(); ++b) {
    sets_.push_back(tap_sets(packing.fold_, 0, offsets, packing.positions_[b]));
  }
  for (const int64_t z : offsets[0]) {
    for (const int64_t v : offsets[1]) {
      for (const int64_t h : offsets[2]) taps_.push_back(z + v + h);
    }
  }
  std::sort(taps_.begin(), taps_.end());
}

void Packing::Source::panels(size_t first, size_t last, const std::vector<RowRange>& rows,
                             std::vector<Panel>& panels) const {
  const int64_t panel_rows = packing_.panel_rows_;
  if (row_stride_ >= column_stride_) {
    for (size_t b = 0; b < rows.size(); ++b) {
      for (int64_t row = rows[b].first; row < rows[b].last; row += panel_rows) {
        for (size_t k = first; k < last; ++k) {
          for (const Piece& piece : packing_.pieces(k)) {
            panels.push_back({k, piece, {0, piece.columns}, b, row});
          }
        }
      }
    }
    return;
  }
  // The rows of a column from the first to the last one, in as many columns as a tile is deep.
  for (size_t k = first; k < last; ++k) {
    for (const Piece& piece : packing_.pieces(k)) {
      for (int64_t j = 0; j < piece.columns; j += kTileDepth) {
        const Piece columns{j, std::min<int64_t>(kTileDepth, piece.columns - j)};
        for (size_t b = 0; b < rows.size(); ++b) {
          for (int64_t row = rows[b].first; row < rows[b].last; row += panel_rows) {
            panels.push_back({k, piece, columns, b, row});
          }
        }
      }
    }
  }
}

RowRange Packing::Source::rows_of(const Panel& panel) const {
  const Block& block = packing_.convolution_.rows[panel.block];
  return {block.first + panel.row, block.first + std::min(panel.row + packing_.panel_rows_, block.orbits)};
}

RowRange Packing::Source::columns_of(const Panel& panel) const {
  const Chunk& of = packing_.patch_.chunks()[panel.chunk];
  const int64_t first =
      packing_.convolution_.columns[of.block].first + of.first + panel.piece.first + panel.columns.first;
  return {first, first + panel.columns.columns};
}

template <typename T>
void Packing::Source::fold(const Kernels<T>& kernels, const std::vector<Panel>& panels, int64_t begin,
                           int64_t end, T* packed, int64_t first) const {
  const int64_t per_group = static_cast<int64_t>(panels.size());
  for (int64_t i = begin; i < end;) {
    const int64_t group = i / per_group, before = group * per_group;
    const int64_t last = before + load_panels(group, panels, i - before, std::min(end - before, per_group),
                                              kernels.l2_bytes / 4);
    for (; i < last; ++i) {
      const Panel& p = panels[i - before];
      fold_panel(kernels, group, p,
                 packed + (packing_.offset(group, p.chunk, p.piece, p.block, p.row) - first));
    }
  }
}

int64_t Packing::Source::load_panels(int64_t group, const std::vector<Panel>& panels, int64_t begin,
                                     int64_t end, int64_t most_bytes) const {
  RowRange rows = rows_of(panels[begin]), columns = columns_of(panels[begin]);
  const int64_t column_bytes = packing_.taps_ * element_size(weight_.dtype);
  int64_t next = begin + 1;
  for (; next < end; ++next) {
    const RowRange next_rows = rows_of(panels[next]), next_columns = columns_of(panels[next]);
    const bool continues =
        row_stride_ >= column_stride_ ? next_rows.first == rows.first : next_columns.first == columns.first;
    const RowRange all_rows{rows.first, next_rows.last}, all_columns{columns.first, next_columns.last};
    if (!continues || all_rows.count() * all_columns.count() * column_bytes > most_bytes) break;
    rows = all_rows;
    columns = all_columns;
  }
  for_each_run(group, rows, columns, [](const char* first, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += kLine) (void)*static_cast<const volatile char*>(first + i);
  });
  return next;
}

bool Packing::Source::taps_together() const {
  return std::min(row_stride_, column_stride_) >= packing_.taps_;
}

template <typename Visit>
void Packing::Source::for_each_run(int64_t group, const RowRange& rows, const RowRange& columns,
                                   Visit&& visit) const {
  const bool rows_in_planes = row_stride_ >= column_stride_;
  const RowRange &planes = rows_in_planes ? rows : columns, &runs = rows_in_planes ? columns : rows;
  const int64_t element = element_size(weight_.dtype),
                run_stride = std::min(row_stride_, column_stride_) * element,
                plane_stride = std::max(row_stride_, column_stride_) * element;
  const char* const first =
      static_cast<const char*>(weight_.data) + group * group_stride_ * element + runs.first * run_stride;
  const bool together = taps_together();
  for (int64_t i = planes.first; i < planes.last; ++i) {
    for (const int64_t tap : taps_) {
      visit(first + i * plane_stride + (together ? 0 : tap * element), runs.count() * run_stride);
      if (together) break;
    }
  }
}

template <typename T>
void Packing::Source::fold_panel(const Kernels<T>& kernels, int64_t group, const Panel& panel,
                                 T* target) const {
  const std::vector<TapSet>& sets = sets_[panel.block];
  const int64_t rows = rows_of(panel).count();
  const int64_t first =
      group * group_stride_ + rows_of(panel).first * row_stride_ + columns_of(panel).first * column_stride_;
  const auto fold_columns = [&](int64_t column, int64_t columns, T* folded, int64_t coefficient) {
    kernels.fold_weight(weight_.dtype, sets.data(), static_cast<int>(sets.size()),
                        static_cast<const char*>(weight_.data) +
                            (first + column * column_stride_) * element_size(weight_.dtype),
                        row_stride_, static_cast<int>(rows), column_stride_, columns, folded, coefficient);
  };
  const auto [begin, count] = panel.columns;
  const int64_t tile = packing_.tile_elements_;
  if (tile == 0) return fold_columns(0, count, target + begin * rows, panel.piece.columns * rows);
  static thread_local Scratch scratch;
  T* folded = scratch.get<T>(packing_.taps_ * kTileRows * kTileDepth + kernels.lanes);
  const int64_t depth = ceil_div(panel.piece.columns, kTileDepth);
  for (int64_t j = begin; j < begin + count; j += kTileDepth) {
    const int64_t columns = std::min<int64_t>(kTileDepth, begin + count - j);
    fold_columns(j - begin, columns, folded, columns * rows);
    for (int64_t k = 0; k < packing_.taps_; ++k) {
      kernels.matrix->split_rows(static_cast<int>(rows), columns, folded + k * columns * rows, 1, rows,
                                 target + (k * depth + j / kTileDepth) * tile);
    }
  }
}

void Packing::Source::ahead(int64_t group, size_t chunk, const std::vector<RowRange>& rows,
                            Ahead& ahead) const {
  const Convolution& c = packing_.convolution_;
  const Chunk& of = packing_.patch_.chunks()[chunk];
  const int64_t column = c.columns[of.block].first + of.first;
  for (size_t b = 0; b < rows.size(); ++b) {
    const int64_t row = c.rows[b].first;
    for_each_run(group, {row + rows[b].first, row + rows[b].last}, {column, column + of.columns},
                 [&](const char* first, int64_t bytes) { ahead.add_run(first, bytes); });
  }
}

template <typename T>
void Packing::pack(const Kernels<T>& kernels, const Tensor& weight, T* packed, const Threads& threads) const {
  const Source source(*this, weight);
  std::vector<RowRange> rows;
  for (const Block& block : convolution_.rows) rows.push_back({0, block.orbits});
  std::vector<Source::Panel> panels;
  source.panels(0, patch_.chunks().size(), rows, panels);
  const int64_t per_group = static_cast<int64_t>(panels.size());
  threads.run(convolution_.groups * per_group,
              [&](int64_t begin, int64_t end) { source.fold(kernels, panels, begin, end, packed, 0); });
}

#define SYMCONV_PACK(T)                                                                                      \
  template void Packing::pack<T>(const Kernels<T>&, const Tensor&, T*, const Threads&) const;                \
  template void Packing::Source::fold<T>(const Kernels<T>&, const std::vector<Panel>&, int64_t, int64_t, T*, \
                                         int64_t) const;
SYMCONV_PACK(float)
SYMCONV_PACK(double)
#undef SYMCONV_PACK

}  // namespace symconv::cpu
