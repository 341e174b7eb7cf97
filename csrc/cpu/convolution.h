// The virtual convolution: what fprop, and dgrad piece by piece, are to the loops that compute them.
//
//     out[n, row, y] = sum over column, t of  w[row, column, t] source[n, column, y * stride - padding + t *
//     dilation]
//
// Rows are the channels that are produced, columns those that are read; one of the two sides is tied, in
// orbits. fprop is such a convolution as it stands. dgrad is one for every residue of the input point modulo
// the stride: its rows are B, its columns A, and its kernel those taps that reach that residue, in reverse.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/channel_map.h"
#include "../common/fold.h"
#include "kernels.h"
#include "operators.h"

namespace symconv::cpu {

struct Convolution {
  int64_t batch, groups;
  int folded_axes;
  bool rows_are_a;          // rows are dimension 0 of the weight: fprop
  bool tied_rows;           // the tied side: rows, or columns
  std::vector<Block> rows;  // of one group; a side that is not tied is one plain block
  std::vector<Block> columns;
  int64_t row_channels;     // dense channels of a group, of what is produced
  int64_t column_channels;  // and of what is read
  int64_t source[kAxes];    // extents of what is read
  int64_t output[kAxes];    // extents of what this convolution produces
  int64_t kernel[kAxes], stride[kAxes], dilation[kAxes];
  int64_t padding[kAxes];                           // may be negative
  int64_t tap_first[kAxes], tap_step[kAxes];        // tap j stands at tap_first + j * tap_step in the weight
  int64_t output_first[kAxes], output_step[kAxes];  // output y is written to output_first + y * output_step

  // Fprop of a problem.
  static Convolution fprop(const Problem&);
  // The pieces of a dgrad, which together write every point of the gradient once. Empty if the mirrored taps
  // of a folded axis do not all reach the same residue, so that this problem has no such form.
  static std::vector<Convolution> dgrad(const Problem&);

  Fold fold() const;
  // The same with a single tap along v, which reads the row of its point: what is left where the taps along v
  // are applied to the products instead of to the source (see Sum in pack.h).
  Convolution without_v() const;
  // How many points along v the source of tap `tap` lies from where its product is added, at stride 1.
  int64_t reach_v(int64_t tap) const { return tap * dilation[1] - padding[1]; }
  // Rows above and below a point that its taps along v reach, at stride 1.
  int64_t rows_above() const { return std::max<int64_t>(0, -reach_v(0)); }
  int64_t rows_below() const { return std::max<int64_t>(0, reach_v(kernel[1] - 1)); }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t row_filters() const { return count(rows); }  // reduced, of one group
  int64_t column_filters() const { return count(columns); }
  int64_t output_rows() const { return batch * output[0] * output[1]; }

 private:
  static int64_t count(const std::vector<Block>& blocks) {
    int64_t n = 0;
    for (const Block& b : blocks) n += b.orbits;
    return n;
  }
};

// Offsets of the taps of one axis, in whatever the taps are read from.
using TapOffsets = std::vector<int64_t>;

// The mirrored sets of taps of a fold, for channels in orbits of `mask` (0: channels that are not tied). A
// tap's offset is the sum of its three axes' offsets; coefficient k of the fold gets the number
// `position[k]`.
std::vector<TapSet> tap_sets(const Fold& fold, int mask, const TapOffsets (&offsets)[kAxes],
                             const std::vector<int64_t>& position);

}  // namespace symconv::cpu
