// dgrad as convolutions.
#include "../common/residues.h"
#include "convolution.h"

namespace symconv::cuda {

std::vector<Convolution> convolutions_of(Operator op, const Problem& p, const Tensor& weight,
                                         int64_t element_size) {
  const Convolution whole = convolution_of(op, p, weight, element_size);
  if (is_convolution(op, p)) return {whole};
  int64_t count = 1;
  for (int d = 0; d < kAxes; ++d) {
    count *= std::min(p.stride[d], p.input[d]);
    if (count > kMostConvolutions) return {};
  }
  std::vector<Residue> axes[kAxes];
  for (int d = 0; d < kAxes; ++d) {
    axes[d] = residues(p, d);
    for (const Residue& r : axes[d]) {
      if (p.folded_axes() & axis_bit(d) && !r.mirrors(p.kernel[d])) return {};
    }
  }
  std::vector<Convolution> pieces;
  for (const Residue& z : axes[0]) {
    for (const Residue& v : axes[1]) {
      for (const Residue& h : axes[2]) {
        const Residue* of[kAxes] = {&z, &v, &h};
        Convolution c = whole;
        const bool reached = z.taps > 0 && v.taps > 0 && h.taps > 0;
        int64_t first_tap = 0;
        for (int d = 0; d < kAxes; ++d) {
          const Residue& r = *of[d];
          c.shape.output[d] = r.points;
          c.shape.stride[d] = 1;
          c.shape.kernel[d] = reached ? r.taps : 1;
          c.shape.dilation[d] = reached ? r.dilation : 1;
          c.shape.padding[d] = reached ? r.padding : 0;
          c.first[d] = r.first;
          c.step[d] = p.stride[d];
          first_tap += r.tap_first * weight.strides[2 + d];
          c.weight.tap[d] = r.tap_step * weight.strides[2 + d];
        }
        c.weight.data = static_cast<char*>(weight.data) + first_tap * element_size;
        if (!reached) {
          c.shape.b_channels = 0;
          if (c.shape.transposed) {
            for (int64_t& orbits : c.shape.orbits) orbits = 0;
          }
        }
        pieces.push_back(c);
      }
    }
  }
  return pieces;
}

}  // namespace symconv::cuda
