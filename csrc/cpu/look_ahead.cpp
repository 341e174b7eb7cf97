// What the GEMM asks for on the side: see look_ahead.h.
#include "look_ahead.h"

#include <algorithm>

namespace symconv::cpu {

void LookAhead::add_source(const Convolution& c, const Patch& patch, int64_t group, const Tile& next,
                           const Chunk& chunk, bool first, const Tensor& source) {
  const bool planar = source.strides[4] == 1;
  if (next.first_row >= next.last_row) return;
  if (!planar && (!first || source.strides[1] != 1 || c.groups > 1)) return;
  const int64_t element = element_size(source.dtype), point = source.strides[4] * c.stride[2];
  patch.ahead(next, source, pieces_);
  for (const OutputRun& run : pieces_) add_range(run.offset * element, run.count * point * element);
  const auto add_channel = [&](int64_t channel) {
    add_plane(static_cast<const char*>(source.data) +
              (group * c.column_channels + channel) * source.strides[1] * element);
  };
  if (!planar) {
    add_channel(0);
    return end_group();
  }
  for (int copy = 0; copy < chunk.copies; ++copy) {
    for (int64_t j = 0; j < chunk.columns; ++j) {
      add_channel(c.columns[chunk.block].channel(chunk.first + j, copy));
    }
  }
  end_group();
}

void LookAhead::add_output(const Convolution& c, int64_t group, const std::vector<RowRange>& rows, bool all,
                           const std::vector<OutputRun>& runs, const Tensor& output) {
  const int64_t point = output.strides[4] * c.output_step[2], element = element_size(output.dtype);
  const bool planar = point == 1 || output.strides[1] != 1;
  if (planar ? point * element > kLine / 4 : c.groups > 1) return;
  const auto add_channel = [&](int64_t channel) {
    add_plane(static_cast<const char*>(output.data) + channel * output.strides[1] * element);
  };
  int64_t channels = c.row_channels;  // that lie next to each other from where a channel was added
  if (!planar && all) {
    add_channel(0);
  } else {
    channels = 0;
    for (size_t b = 0; b < c.rows.size(); ++b) {
      const int64_t count = rows[b].count();
      channels = std::max(channels, count);
      for (int copy = 0; copy < c.rows[b].size() && count > 0; ++copy) {
        const int64_t channel = group * c.row_channels + c.rows[b].channel(rows[b].first, copy);
        for (int64_t r = 0; r < (planar ? count : 1); ++r) add_channel(channel + r);
      }
    }
  }
  for (const OutputRun& run : runs) {
    if (planar || point == channels) {
      add_range(run.offset * element, run.count * point * element);
      continue;
    }
    for (int64_t i = 0; i < run.count; ++i) {
      add_range((run.offset + i * point) * element, channels * element);
    }
  }
  end_group();
}

}  // namespace symconv::cpu
