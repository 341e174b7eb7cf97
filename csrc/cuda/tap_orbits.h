// The order in which a tensor-core kernel goes through the coefficients of one block's fold.
//
// Taps that are each other's mirror images form a tap orbit: 2^|D| taps, where D are the axes along which
// they have partners. The orbit's taps fold into as many coefficients, one for every parity within D. The
// order is by D (ascending subsets of the mask), within D by the orbit's first tap, and within an orbit by
// subset(D, j): number j is the tap mirrored by that subset, and the coefficient that is odd in it.
#pragma once

#include "../common/fold.h"

namespace symconv::cuda {

struct TapOrbits {
  int mask;
  int kernel[kAxes];

  SYMCONV_HD TapOrbits(int mask_, const int64_t* kernel_) : mask(mask_) {
    for (int d = 0; d < kAxes; ++d) kernel[d] = static_cast<int>(kernel_[d]);
  }

  // First taps along one dimension of the orbits that are paired along D.
  SYMCONV_HD int extent(int paired, int dim) const {
    if (!(mask & axis_bit(dim))) return kernel[dim];
    return paired & axis_bit(dim) ? kernel[dim] / 2 : kernel[dim] % 2;
  }
  SYMCONV_HD int orbits(int paired) const {
    return extent(paired, 0) * extent(paired, 1) * extent(paired, 2);
  }
  SYMCONV_HD int taps() const { return kernel[0] * kernel[1] * kernel[2]; }

  // Number `index` of the order. Its tap, mirrored by its parity, is the tap of the same number.
  SYMCONV_HD Coefficient coefficient(int index) const {
    int d_rank = 0;
    while (index >= orbits(subset(mask, d_rank)) * orbit_size(subset(mask, d_rank))) {
      index -= orbits(subset(mask, d_rank)) * orbit_size(subset(mask, d_rank));
      ++d_rank;
    }
    const int paired = subset(mask, d_rank), size = orbit_size(paired);
    Coefficient c{subset(paired, index % size), paired, {0, 0, 0}};
    index /= size;
    for (int d = kAxes - 1; d >= 0; --d) {
      const int n = extent(paired, d);
      c.tap[d] = index % n;
      index /= n;
      if ((mask & axis_bit(d)) && !(paired & axis_bit(d))) c.tap[d] = kernel[d] / 2;
    }
    return c;
  }
};

}  // namespace symconv::cuda
