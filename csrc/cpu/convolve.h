// The loops of a virtual convolution: fprop, and every piece of a dgrad.
#pragma once

#include "convolution.h"
#include "operators.h"

namespace symconv::cpu {

// Elements of the packed weights of `convolution` on this machine.
int64_t packed_elements(const Convolution& convolution, DType dtype, int threads);

// Folds and packs `weight` for convolve() with the same convolution and number of threads.
void pack_weights(const Convolution& convolution, const Tensor& weight, void* packed, const Threads& threads);

// source (N, column channels) -> output (N, row channels), at the convolution's output points. Either
// `weight` or `packed` (from pack_weights) is given. `bias` has one value per row channel, or null data.
void convolve(const Convolution& convolution, const Tensor& source, const Tensor& weight, const void* packed,
              const Tensor& bias, const Tensor& output, const Threads& threads);

}  // namespace symconv::cpu
