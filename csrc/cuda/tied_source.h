// Convolutions with a tied source on tensor cores: what they need and how they are launched.
#pragma once

#include "convolution.h"
#include "packed_source.h"

namespace symconv::cuda::tied_source {

// Whether the kernel takes the convolution; otherwise the plain twin has to.
bool takes(const Convolution& convolution, DType dtype, bool allow_tf32);
// Bytes of scratch memory, without the planes of slots.
int64_t workspace_size(const Convolution& convolution, DType dtype);
// Computes the result from the planes of the source's slots (slots.h). `workspace` is aligned to 16.
void run(const Convolution& convolution, DType dtype, const SourceView& slots, const Tensor& bias,
         const Tensor& result, void* workspace, cudaStream_t stream);

}  // namespace symconv::cuda::tied_source
