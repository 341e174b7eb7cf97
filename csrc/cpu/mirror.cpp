// The dense weight that a reduced weight stands for: every reduced filter copied to its orbit, mirrored.
#include "../common/channel_map.h"
#include "../common/fold.h"
#include "operators.h"
#include "scalar.h"

namespace symconv::cpu {
namespace {

template <typename T>
void mirror_typed(const Problem& p, const Tensor& weight, const Tensor& dense, const Threads& threads) {
  const ChannelMap map(p);
  const int tied = p.transposed ? 1 : 0;  // which dimension of the weight has the orbits
  const int64_t others = p.transposed ? p.a_channels / p.groups : p.b_channels / p.groups;
  threads.run(p.groups * map.unique, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      const int64_t group = j / map.unique, filter = j % map.unique;
      const Block& block = map.block_of(filter);
      for (int copy = 0; copy < block.size(); ++copy) {
        const int g = reflection(block.mask, copy);
        const int64_t channel = block.channel(filter - block.first, copy);
        for (int64_t other = 0; other < others; ++other) {
          // The group selects rows: the tied ones of dimension 0, or the free ones of a transposed layer.
          const int64_t from[2] = {group * (tied ? others : map.unique) + (tied ? other : filter),
                                   tied ? filter : other};
          const int64_t to[2] = {group * (tied ? others : map.channels) + (tied ? other : channel),
                                 tied ? channel : other};
          const T* source =
              static_cast<const T*>(weight.data) + from[0] * weight.strides[0] + from[1] * weight.strides[1];
          T* target = static_cast<T*>(dense.data) + to[0] * dense.strides[0] + to[1] * dense.strides[1];
          for (int64_t z = 0; z < p.kernel[0]; ++z) {
            const int64_t mz = g & kZ ? p.kernel[0] - 1 - z : z;
            for (int64_t v = 0; v < p.kernel[1]; ++v) {
              const int64_t mv = g & kV ? p.kernel[1] - 1 - v : v;
              for (int64_t h = 0; h < p.kernel[2]; ++h) {
                const int64_t mh = g & kH ? p.kernel[2] - 1 - h : h;
                target[z * dense.strides[2] + v * dense.strides[3] + h * dense.strides[4]] =
                    source[mz * weight.strides[2] + mv * weight.strides[3] + mh * weight.strides[4]];
              }
            }
          }
        }
      }
    }
  });
}

}  // namespace

void mirror(const Problem& problem, const Tensor& weight, const Tensor& dense, const Threads& threads) {
  dispatch(weight.dtype, [&](auto t) { mirror_typed<decltype(t)>(problem, weight, dense, threads); });
}

}  // namespace symconv::cpu
