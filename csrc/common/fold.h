// The fold: the change of basis that turns mirrored taps into sums and differences, for kernels and for
// patches.
//
// Along a folded axis of k taps, tap i and its mirror k-1-i become one even and one odd coefficient; an odd k
// has a middle tap, which is even. There are ceil(k/2) even and floor(k/2) odd coefficients, so the fold
// keeps the count. Over several axes it is a tensor product. For a coefficient of parity p whose tap t has a
// mirror partner along the axes D:
//     patch    X = sum over g in D of sign(p, g) x[g t]
//     weight   W = 2^-|D| sum over g in D of sign(p, g) w[g t]          so that  sum w x = sum W X
// Both are linear; their transposes scatter with the same signs.
#pragma once

#include <cstdint>

#include "problem.h"

namespace symconv {

// One coefficient: its parity class, its first tap (the lower of each mirrored pair), and the axes along
// which that tap has a partner.
struct Coefficient {
  int parity;
  int paired;          // D, as a mask
  int64_t tap[kAxes];  // z, v, h

  SYMCONV_HD int terms() const { return orbit_size(paired); }
};

// The coefficients of a kernel folded along `axes`, ordered by parity class (ascending) and within a class by
// tap.
struct Fold {
  int axes;
  int64_t kernel[kAxes];

  SYMCONV_HD explicit Fold(const Problem& problem) : axes(problem.folded_axes()) {
    for (int d = 0; d < kAxes; ++d) kernel[d] = problem.kernel[d];
  }

  SYMCONV_HD int classes() const { return orbit_size(axes); }
  SYMCONV_HD int parity(int cls) const { return subset(axes, cls); }

  // Coefficients along one dimension that are odd (or even) there; an axis that is not folded has all its
  // taps, even.
  SYMCONV_HD int64_t extent(int parity, int dim) const {
    if (!(axes & axis_bit(dim))) return kernel[dim];
    return parity & axis_bit(dim) ? kernel[dim] / 2 : (kernel[dim] + 1) / 2;
  }
  // Coefficients of one parity class; zero where a folded axis has a single tap and the class is odd in it.
  SYMCONV_HD int64_t count(int parity) const {
    return extent(parity, 0) * extent(parity, 1) * extent(parity, 2);
  }
  // The first coefficient of the class.
  SYMCONV_HD int64_t first(int parity_) const {
    int64_t n = 0;
    for (int c = 0; parity(c) != parity_; ++c) n += count(parity(c));
    return n;
  }
  SYMCONV_HD int64_t total() const { return kernel[0] * kernel[1] * kernel[2]; }

  // Coefficient `index` of class `parity`.
  SYMCONV_HD Coefficient coefficient(int parity, int64_t index) const {
    Coefficient c{parity, 0, {0, 0, 0}};
    for (int d = kAxes - 1; d >= 0; --d) {
      const int64_t n = extent(parity, d);
      c.tap[d] = index % n;
      index /= n;
      if ((axes & axis_bit(d)) && 2 * c.tap[d] != kernel[d] - 1) c.paired |= axis_bit(d);
    }
    return c;
  }
  // Coefficient 0..total()-1 of the whole kernel.
  SYMCONV_HD Coefficient coefficient(int64_t index) const {
    int cls = 0;
    while (index >= count(parity(cls))) index -= count(parity(cls++));
    return coefficient(parity(cls), index);
  }

  // Tap `tap` mirrored by reflection g, as an offset into the kernel (z, v, h row-major).
  SYMCONV_HD int64_t mirrored_offset(const int64_t* tap, int g) const {
    int64_t offset = 0;
    for (int d = 0; d < kAxes; ++d) {
      offset = offset * kernel[d] + (g & axis_bit(d) ? kernel[d] - 1 - tap[d] : tap[d]);
    }
    return offset;
  }

  // W of one coefficient, from `taps` of one filter and channel (row-major, `step` elements apart).
  template <typename Real, typename Scalar>
  SYMCONV_HD Real fold_weight(const Coefficient& c, const Scalar* taps, int64_t step = 1) const {
    Real sum = 0;
    const int n = c.terms();
    for (int i = 0; i < n; ++i) {
      const int g = subset(c.paired, i);
      const Real w = static_cast<Real>(taps[mirrored_offset(c.tap, g) * step]);
      sum += sign(c.parity, g) > 0 ? w : -w;
    }
    return sum / static_cast<Real>(n);
  }

  // The transpose of fold_weight: adds the gradient of one coefficient to the gradient of its taps.
  template <typename Real>
  SYMCONV_HD void unfold_weight(const Coefficient& c, Real gradient, Real* taps, int64_t step = 1) const {
    const int n = c.terms();
    const Real share = gradient / static_cast<Real>(n);
    for (int i = 0; i < n; ++i) {
      const int g = subset(c.paired, i);
      taps[mirrored_offset(c.tap, g) * step] += sign(c.parity, g) > 0 ? share : -share;
    }
  }
};

// The ±1 (Hadamard) transform of N = 1, 2, 4 or 8 values in place: values[q] = sum over e of (-1)^popcount(q
// & e) values[e]. Ranks q and e are those of subset(), so the sign is sign(subset(mask, q), subset(mask, e))
// for any mask of log2 N axes. First > 1: neighbours up to that distance have been combined already.
template <int N, int First = 1, typename Value>
SYMCONV_HD inline void hadamard(Value* values) {
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 8
#endif
  for (int half = First; half < N; half *= 2) {
#if defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 8
#endif
    for (int i = 0; i < N; ++i) {
      if (i & half) continue;
      const Value even = values[i] + values[i + half], odd = values[i] - values[i + half];
      values[i] = even;
      values[i + half] = odd;
    }
  }
}

// Which slot of an orbit of `mask` the class `parity` adds to.
SYMCONV_HD constexpr int slot_of(int mask, int parity) { return subset_index(mask, parity & mask); }

// The butterfly: out[copy] = sum over slots q of sign(q, reflection(copy)) slots[q]; its own transpose but
// for the order.
template <typename Real>
SYMCONV_HD void butterfly_to_copies(int mask, const Real* slots, Real* copies) {
  const int n = orbit_size(mask);
  for (int c = 0; c < n; ++c) {
    Real sum = 0;
    for (int q = 0; q < n; ++q) sum += sign(subset(mask, q), reflection(mask, c)) > 0 ? slots[q] : -slots[q];
    copies[c] = sum;
  }
}

template <typename Real>
SYMCONV_HD void butterfly_to_slots(int mask, const Real* copies, Real* slots) {
  const int n = orbit_size(mask);
  for (int q = 0; q < n; ++q) {
    Real sum = 0;
    for (int c = 0; c < n; ++c)
      sum += sign(subset(mask, q), reflection(mask, c)) > 0 ? copies[c] : -copies[c];
    slots[q] = sum;
  }
}

}  // namespace symconv
