// Packing a source, and telling whether it needs it.
#include <type_traits>

#include "launch.h"
#include "pack_kernel.cuh"
#include "packed_source.h"

namespace symconv::cuda {
namespace {

int64_t padded_channels(const SourceShape& shape, DType dtype) {
  const int64_t run = 16 / element_size(dtype);
  return divide_up(shape.channels / shape.groups, run) * run;
}

}  // namespace

bool is_packed(const SourceShape& shape, const Tensor& tensor) {
  const int64_t run = 16 / element_size(tensor.dtype);
  if (reinterpret_cast<uintptr_t>(tensor.data) % 16 != 0 || tensor.strides[1] != 1) return false;
  if (shape.channels / shape.groups % run != 0) return false;
  const int64_t extents[4] = {shape.batch, shape.points[0], shape.points[1], shape.points[2]};
  const int64_t strides[4] = {tensor.strides[0], tensor.strides[2], tensor.strides[3], tensor.strides[4]};
  for (int d = 0; d < 4; ++d) {
    if (extents[d] > 1 && strides[d] % run != 0) return false;
  }
  return true;
}

int64_t packed_size(const SourceShape& shape, DType dtype) {
  return shape.batch * shape.points[0] * shape.points[1] * shape.points[2] * shape.groups *
         padded_channels(shape, dtype) * element_size(dtype);
}

SourceView view_packed(const SourceShape& shape, const Tensor& tensor) {
  SourceView view{
      tensor.data, {tensor.strides[0], tensor.strides[2], tensor.strides[3], tensor.strides[4]}, 0, 0};
  view.channels = static_cast<int>(shape.channels / shape.groups);
  view.group = view.channels;
  return view;
}

SourceView pack(const Problem& problem, const SourceShape& shape, const Tensor& tensor, void* memory,
                cudaStream_t stream) {
  SourceView view{memory, {}, padded_channels(shape, tensor.dtype), 0};
  view.channels = static_cast<int>(view.group);
  view.strides[3] = shape.groups * view.group;
  for (int d = kAxes - 1; d >= 0; --d) view.strides[d] = view.strides[d + 1] * shape.points[d];
  PackShape pack_shape{};
  pack_shape.vectors = packed_size(shape, tensor.dtype) / 16;
  pack_shape.channels_per_group = shape.channels / shape.groups;
  pack_shape.vectors_per_group = Divisor(view.group * element_size(tensor.dtype) / 16);
  pack_shape.groups = Divisor(shape.groups);
  for (int d = 0; d < kAxes; ++d) pack_shape.points[d] = Divisor(shape.points[d]);
  dispatch(tensor.dtype, [&](auto element) {
    using T = decltype(element);
    if constexpr (!std::is_same_v<T, double>) {
      LaunchShape launch_shape;
      launch_shape.threads = kPackThreads;
      launch_shape.blocks[0] = divide_up(pack_shape.vectors, kPackThreads);
      launch("pack", problem, pack_kernel<T>, launch_shape, stream, pack_shape, View<const T>(tensor),
             static_cast<Word4*>(memory));
    }
  });
  return view;
}

}  // namespace symconv::cuda
