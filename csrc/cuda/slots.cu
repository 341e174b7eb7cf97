// Launches that make planes of slots.
#include <type_traits>

#include "launch.h"
#include "slots.h"
#include "slots_kernel.cuh"

namespace symconv::cuda {

int64_t slots_size(const ChannelMap& map, const SourceShape& shape, DType dtype) {
  const int64_t points = shape.batch * shape.points[0] * shape.points[1] * shape.points[2];
  return points * SlotPlanes(map, shape.groups, dtype).point * element_size(dtype);
}

SourceView make_slots(const Problem& problem, const ChannelMap& map, const SourceShape& shape,
                      const Tensor& tensor, void* memory, cudaStream_t stream) {
  const SlotPlanes planes(map, shape.groups, tensor.dtype);
  const int64_t points = shape.batch * shape.points[0] * shape.points[1] * shape.points[2];
  for (int b = 0; b < kBlocks; ++b) {
    const Block& block = map.blocks[b];
    if (block.orbits == 0) continue;
    SlotsShape s{};
    s.block = block;
    const int64_t runs_per_group = planes.width[b] * element_size(tensor.dtype) / 16;
    s.runs = points * shape.groups * runs_per_group;
    s.channels_per_group = shape.channels / shape.groups;
    s.point_stride = planes.point;
    s.group_stride = planes.group;
    s.plane_stride = planes.width[b];
    s.first = planes.first[b];
    s.scale = slot_scale(tensor.dtype, axis_count(block.mask));
    s.runs_per_group = Divisor(runs_per_group);
    s.groups = Divisor(shape.groups);
    for (int d = 0; d < kAxes; ++d) s.points[d] = Divisor(shape.points[d]);
    dispatch(tensor.dtype, [&](auto element) {
      using T = decltype(element);
      if constexpr (!std::is_same_v<T, double>) {
        LaunchShape launch_shape;
        launch_shape.threads = kSlotsThreads;
        launch_shape.blocks[0] = divide_up(s.runs, kSlotsThreads);
        launch("slots", problem, slots_kernel<T>, launch_shape, stream, s, View<const T>(tensor),
               static_cast<T*>(memory));
      }
    });
  }
  SourceView view{memory, {}, planes.group, static_cast<int>(planes.group)};
  view.strides[3] = planes.point;
  for (int d = kAxes - 1; d >= 0; --d) view.strides[d] = view.strides[d + 1] * shape.points[d];
  return view;
}

}  // namespace symconv::cuda
