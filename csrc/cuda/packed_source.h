// The source of a tensor-core kernel: channels side by side, in runs of 16 aligned bytes. A tensor that does
// not lie so is copied.
#pragma once

#include <cstdint>

#include "../common/problem.h"
#include "operators.h"

namespace symconv::cuda {

struct SourceView {
  const void* data;
  int64_t strides[4];  // elements from one image, plane, row and point to the next
  int64_t group;       // elements from one group's channels to the next
  int channels;        // of a group, a multiple of 16 bytes
};

// The extents of a source: (batch, channels of all groups, groups, z, v, h).
struct SourceShape {
  int64_t batch, channels, groups, points[kAxes];
};

inline int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// Whether the tensor can be read as it lies.
bool is_packed(const SourceShape& shape, const Tensor& tensor);
// Bytes of a packed copy.
int64_t packed_size(const SourceShape& shape, DType dtype);
SourceView view_packed(const SourceShape& shape, const Tensor& tensor);
// Copies the tensor to `memory` (packed_size() bytes, aligned to 16); padding channels become zeros.
SourceView pack(const Problem& problem, const SourceShape& shape, const Tensor& tensor, void* memory,
                cudaStream_t stream);

}  // namespace symconv::cuda
