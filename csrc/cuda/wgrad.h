// Weight gradients on tensor cores: what they need and how they are launched.
#pragma once

#include "convolution.h"
#include "packed_source.h"

namespace symconv::cuda::wgrad_tiles {

// Whether the kernels take the gradient of the convolution; otherwise the plain twin has to.
bool takes(const Convolution& convolution, DType dtype, bool allow_tf32);
// Bytes of scratch memory, without a packed copy of the source.
int64_t workspace_size(const Convolution& convolution, const Tensor& result_gradient);
// Computes the gradient into convolution.weight, from a packed source and the gradient of the tied result.
void run(const Convolution& convolution, const SourceView& source, const Tensor& result_gradient,
         void* workspace, cudaStream_t stream);

}  // namespace symconv::cuda::wgrad_tiles
