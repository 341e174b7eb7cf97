// Problems as virtual convolutions, and the tap sets of their folds.
#include "convolution.h"

#include "../common/residues.h"

namespace symconv::cpu {
namespace {

std::vector<Block> tied_blocks(const Problem& problem) {
  const ChannelMap map(problem);
  std::vector<Block> blocks;
  for (const Block& b : map.blocks) {
    if (b.orbits > 0) blocks.push_back(b);
  }
  return blocks;
}

std::vector<Block> plain_block(int64_t channels) { return {Block{0, channels, 0, channels}}; }

// What both directions of a problem share, with A or B as the rows.
Convolution with_sides(const Problem& p, bool a_is_rows) {
  Convolution c{};
  c.batch = p.batch;
  c.groups = p.groups;
  c.folded_axes = p.folded_axes();
  c.rows_are_a = a_is_rows;
  c.tied_rows = a_is_rows != p.transposed;
  const int64_t a = p.a_channels / p.groups, b = p.b_channels / p.groups;
  c.row_channels = a_is_rows ? a : b;
  c.column_channels = a_is_rows ? b : a;
  c.rows = c.tied_rows ? tied_blocks(p) : plain_block(c.row_channels);
  c.columns = c.tied_rows ? plain_block(c.column_channels) : tied_blocks(p);
  return c;
}

}  // namespace

Fold Convolution::fold() const {
  Problem p{};
  for (int d = 0; d < kAxes; ++d) p.kernel[d] = kernel[d];
  Fold f(p);
  f.axes = folded_axes;
  return f;
}

Convolution Convolution::without_v() const {
  Convolution c = *this;
  c.kernel[1] = c.dilation[1] = 1;
  c.padding[1] = 0;
  c.folded_axes &= ~kV;
  return c;
}

Convolution Convolution::fprop(const Problem& p) {
  Convolution c = with_sides(p, true);
  for (int d = 0; d < kAxes; ++d) {
    c.source[d] = p.input[d];
    c.output[d] = p.output[d];
    c.kernel[d] = p.kernel[d];
    c.stride[d] = p.stride[d];
    c.dilation[d] = p.dilation[d];
    c.padding[d] = p.padding[d];
    c.tap_first[d] = 0;
    c.tap_step[d] = 1;
    c.output_first[d] = 0;
    c.output_step[d] = 1;
  }
  return c;
}

std::vector<Convolution> Convolution::dgrad(const Problem& p) {
  std::vector<Residue> axes[kAxes];
  for (int d = 0; d < kAxes; ++d) {
    axes[d] = residues(p, d);
    if (!(p.folded_axes() & axis_bit(d))) continue;
    for (const Residue& r : axes[d]) {
      if (!r.mirrors(p.kernel[d])) return {};
    }
  }
  std::vector<Convolution> pieces;
  for (const Residue& z : axes[0]) {
    for (const Residue& v : axes[1]) {
      for (const Residue& h : axes[2]) {
        Convolution c = with_sides(p, false);
        const Residue* of[kAxes] = {&z, &v, &h};
        for (int d = 0; d < kAxes; ++d) {
          c.source[d] = p.output[d];
          c.output[d] = of[d]->points;
          c.kernel[d] = of[d]->taps;
          c.stride[d] = 1;
          c.dilation[d] = of[d]->dilation;
          c.padding[d] = of[d]->padding;
          c.tap_first[d] = of[d]->tap_first;
          c.tap_step[d] = of[d]->tap_step;
          c.output_first[d] = of[d]->first;
          c.output_step[d] = p.stride[d];
        }
        pieces.push_back(std::move(c));
      }
    }
  }
  return pieces;
}

std::vector<TapSet> tap_sets(const Fold& fold, int mask, const TapOffsets (&offsets)[kAxes],
                             const std::vector<int64_t>& position) {
  std::vector<TapSet> sets;
  for (int64_t i = 0; i < fold.count(0); ++i) {  // the even coefficients name the sets, one each
    const Coefficient even = fold.coefficient(0, i);
    TapSet set{};
    set.terms = even.terms();
    for (int copy = 0; copy < orbit_size(mask); ++copy) {
      const int r = reflection(mask, copy) & even.paired;
      for (int e = 0; e < set.terms; ++e) {
        const int g = subset(even.paired, e) ^ r;
        for (int d = 0; d < kAxes; ++d) {
          set.tap[copy][e] += offsets[d][g & axis_bit(d) ? fold.kernel[d] - 1 - even.tap[d] : even.tap[d]];
        }
      }
    }
    for (int q = 0; q < set.terms; ++q) {
      const int parity = subset(even.paired, q);
      int64_t index = 0;  // of this set within the class
      for (int d = 0; d < kAxes; ++d) index = index * fold.extent(parity, d) + even.tap[d];
      set.coefficient[q] = position[fold.first(parity) + index];
    }
    sets.push_back(set);
  }
  return sets;
}

}  // namespace symconv::cpu
