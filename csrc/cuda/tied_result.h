// Convolutions with a tied result on tensor cores: what they need and how they are launched.
#pragma once

#include "convolution.h"
#include "packed_source.h"

namespace symconv::cuda::tied_result {

// Whether the kernel takes the convolution; otherwise the plain twin has to.
bool takes(const Convolution& convolution, DType dtype, bool allow_tf32);
// Whether the kernel reads a source with these strides: whether offsets within a tile fit in 32 bits.
bool reads(const Convolution& convolution, DType dtype, const SourceView& source);
// Bytes of scratch memory, without a packed copy of the source.
int64_t workspace_size(const Convolution& convolution, DType dtype);
// Computes the result from a packed source. `workspace` is aligned to 16.
void run(const Convolution& convolution, DType dtype, const SourceView& source, const Tensor& bias,
         const Tensor& result, void* workspace, cudaStream_t stream);

}  // namespace symconv::cuda::tied_result
