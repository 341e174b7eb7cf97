// Packing what a kernel reads, and telling whether it needs it.
#include <type_traits>

#include "launch.h"
#include "pack_kernel.cuh"
#include "packed_source.h"

namespace symconv::cuda {
namespace {

// Elements of 16 bytes.
int64_t vector(DType dtype) { return 16 / element_size(dtype); }

int64_t padded_channels(const ChannelRuns& runs, DType dtype) {
  int64_t vectors = 0;
  for (int r = 0; r < runs.count; ++r) vectors += divide_up(runs.runs[r].channels, vector(dtype));
  return vectors * vector(dtype);
}

}  // namespace

ChannelRuns whole_run(const SourceShape& shape) {
  ChannelRuns runs{};
  runs.add(0, shape.channels / shape.groups);
  return runs;
}

ChannelRuns tied_runs(const ChannelMap& map) {
  ChannelRuns runs{};
  for (const Block& block : map.blocks) {
    for (int copy = 0; block.orbits > 0 && copy < block.size(); ++copy)
      runs.add(block.channel(0, copy), block.orbits);
  }
  return runs;
}

int64_t copy_size(const SourceShape& shape, const ChannelRuns& runs, const Tensor& tensor, bool far_apart) {
  const int64_t whole = vector(tensor.dtype);
  bool readable = !far_apart && reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 &&
                  tensor.strides[1] == 1 && shape.channels / shape.groups % whole == 0;
  for (int r = 0; r < runs.count; ++r)
    readable = readable && runs.runs[r].first % whole == 0 && runs.runs[r].channels % whole == 0;
  const int64_t extents[4] = {shape.batch, shape.points[0], shape.points[1], shape.points[2]};
  const int64_t strides[4] = {tensor.strides[0], tensor.strides[2], tensor.strides[3], tensor.strides[4]};
  int64_t points = 1, reach = shape.channels;
  for (int d = 0; d < 4; ++d) {
    points *= extents[d];
    reach += (extents[d] - 1) * strides[d];
    readable = readable && (extents[d] == 1 || strides[d] % whole == 0);
  }
  readable = readable && reach / whole < INT32_MAX;  // kernels count 16 bytes in 32 bits
  return readable ? 0
                  : points * shape.groups * padded_channels(runs, tensor.dtype) * element_size(tensor.dtype);
}

SourceView packed(const Problem& problem, const SourceShape& shape, ChannelRuns& runs, const Tensor& tensor,
                  void* memory, cudaStream_t stream, bool far_apart) {
  const int64_t bytes = copy_size(shape, runs, tensor, far_apart);
  if (bytes == 0) {
    const int64_t channels = shape.channels / shape.groups;
    return {tensor.data,
            {tensor.strides[0], tensor.strides[2], tensor.strides[3], tensor.strides[4]},
            channels,
            static_cast<int>(channels)};
  }
  SourceView view{memory, {}, padded_channels(runs, tensor.dtype), 0};
  view.channels = static_cast<int>(view.group);
  view.strides[3] = shape.groups * view.group;
  for (int d = kAxes - 1; d >= 0; --d) view.strides[d] = view.strides[d + 1] * shape.points[d];
  int64_t at = 0;
  for (int r = 0; r < runs.count; ++r) {
    runs.runs[r].at = at;
    at += divide_up(runs.runs[r].channels, vector(tensor.dtype)) * vector(tensor.dtype);
  }
  PackShape pack_shape{};
  pack_shape.vectors = bytes / 16;
  pack_shape.channels_per_group = shape.channels / shape.groups;
  pack_shape.runs = runs;
  pack_shape.vectors_per_group = Divisor(view.group / vector(tensor.dtype));
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
