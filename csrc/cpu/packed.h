// Packed weights of a whole operator: the reduced weight, folded, in the order in which the loops read it.
//
// A pack holds a header, which says what it was made for, and then the packed weights (pack.h) of fprop's
// convolution, or of every piece of a dgrad, one residue of the input point modulo the stride after the
// other. Its numbers have the type that the kernels compute in: float64 for float64, float32 for all others.
// It depends on the weight, its symmetry and this machine's kernels, for a dgrad on stride, padding and
// dilation, too; not on the sizes of inputs, the batch or the number of threads.
#pragma once

#include "convolution.h"
#include "operators.h"

namespace symconv::cpu {

// Offsets into a pack of the pieces of an operator.
class PackLayout {
 public:
  // The layout for fprop, or for dgrad. Empty batches and sizes of any extent are fine.
  PackLayout(const Problem& problem, bool is_dgrad, DType dtype);

  // Elements of the pack, header and all; 0 where the operator has no packed form.
  int64_t elements() const { return elements_; }
  // Element at which the weights of a piece with this first output point start.
  int64_t offset(const Convolution& piece) const;
  // The convolutions that the weights are packed for, in order; their extents say nothing.
  const std::vector<Convolution>& pieces() const { return pieces_; }
  // What the header of a pack says: equal for packs that can stand for each other.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  std::vector<Convolution> pieces_;
  std::vector<int64_t> offsets_;
  int64_t stride_[kAxes];
  int64_t elements_ = 0;
  uint64_t fingerprint_ = 0;
};

}  // namespace symconv::cpu
