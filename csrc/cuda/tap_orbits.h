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

  TapOrbits() = default;
  template <typename Integer>
  SYMCONV_HD TapOrbits(int mask_, const Integer* kernel_) : mask(mask_) {
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
    int paired = 0;
    while (index >= orbits(paired) * orbit_size(paired)) {
      index -= orbits(paired) * orbit_size(paired);
      paired = (paired - mask) & mask;  // the next subset
    }
    const int size = orbit_size(paired);
    return orbit(index / size, paired, subset(paired, index % size));
  }

  // The coefficients of one parity alone, in the same order: how many, the taps that they are folded from,
  // and number `index`, with the number of taps before it.
  SYMCONV_HD int count(int parity) const {
    int n = 0;
    for_each_pairing(parity, [&](int paired) { n += orbits(paired); });
    return n;
  }
  SYMCONV_HD int terms(int parity) const {
    int n = 0;
    for_each_pairing(parity, [&](int paired) { n += orbits(paired) * orbit_size(paired); });
    return n;
  }
  SYMCONV_HD Coefficient coefficient(int parity, int index, int& first_term) const {
    first_term = 0;
    int paired = parity;
    while (index >= orbits(paired)) {
      index -= orbits(paired);
      first_term += orbits(paired) * orbit_size(paired);
      do paired = (paired - mask) & mask;
      while ((paired & parity) != parity);
    }
    first_term += index * orbit_size(paired);
    return orbit(index, paired, parity);
  }

 private:
  // Calls visit for every subset of the mask that contains `parity`, ascending.
  template <typename Visit>
  SYMCONV_HD void for_each_pairing(int parity, Visit&& visit) const {
    for (int i = 0; i < orbit_size(mask); ++i) {
      if ((subset(mask, i) & parity) == parity) visit(subset(mask, i));
    }
  }

  // Orbit number `index` of those paired along `paired`.
  SYMCONV_HD Coefficient orbit(int index, int paired, int parity) const {
    Coefficient c{parity, paired, {0, 0, 0}};
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
