// dgrad as convolutions of stride 1: along each axis one for every residue of the input point modulo the
// stride, with those taps that reach that residue, in reverse.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "problem.h"

namespace symconv {

struct Residue {
  int64_t first;   // first input point of this residue
  int64_t points;  // how many there are
  // Its taps, in the order of the points that they read, may be none; what they read lies `dilation` apart.
  int64_t taps, tap_first, tap_step, dilation, padding;

  // Whether the mirror image of each of its taps is one of them; `kernel` is the number of all taps.
  bool mirrors(int64_t kernel) const {
    return taps == 0 || 2 * tap_first + (taps - 1) * tap_step == kernel - 1;
  }
};

inline std::vector<Residue> residues(const Problem& p, int d) {
  const int64_t s = p.stride[d], common = std::gcd(s, p.dilation[d]);
  const int64_t step = s / common;                  // between taps that reach the same residue
  const int64_t dilation = p.dilation[d] / common;  // and how far apart those read
  std::vector<Residue> result;
  for (int64_t first = 0; first < std::min(s, p.input[d]); ++first) {
    Residue r{first, (p.input[d] - first + s - 1) / s, 0, 0, 0, dilation, 0};
    for (int64_t t = 0; t < std::min(step, p.kernel[d]); ++t) {
      const int64_t reach = first + p.padding[d] - t * p.dilation[d];
      if (reach % s != 0) continue;
      r.taps = (p.kernel[d] - t + step - 1) / step;
      // Reversed, so that the dilation is positive: the last tap comes first.
      r.tap_first = t + (r.taps - 1) * step;
      r.tap_step = -step;
      r.padding = (r.taps - 1) * dilation - reach / s;
    }
    result.push_back(r);
  }
  return result;
}

}  // namespace symconv
