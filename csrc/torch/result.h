// Where an operator's result lives: its memory format and its allocation.
//
// The rule, which the fake implementations repeat: the result of an operator is channels_last
// (channels_last_3d in 3-D) if either of its two tensors suggests that format (fprop: input, weight; dgrad:
// grad_output, weight; wgrad: grad_output, input; mirror: weight), and contiguous otherwise; in 1-D it is
// always contiguous. A tensor suggests channels_last as torch's suggest_memory_format says, by its strides
// alone: going through the dimensions channels, width, height, (depth,) batch, no stride is smaller than what
// the one before spans; an empty tensor, one whose channel stride is 0, and one in which channels and batch
// are indistinguishable do not.
#pragma once

#include "tensor.h"

namespace symconv::binding {

bool suggests_channels_last(const Tensor& tensor);

// A new tensor of dtype and device of `like`, dense, in one of the two formats. `sizes` has 3 to 5 entries.
Tensor new_result(const Tensor& like, const Ints& sizes, bool channels_last);

// A new one-dimensional tensor of the numbers that the kernels compute in: float64 for a float64 `like`, else
// float32.
Tensor new_numbers(const Tensor& like, int64_t count);

// Why torch did not allocate, just now in this thread: ": " and torch's words; empty with a torch
// before 2.13, which does not tell. By "CUDA out of memory" in them callers know that a smaller batch may do.
std::string why_not_allocated();

}  // namespace symconv::binding
