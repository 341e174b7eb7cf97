// The end of a tensor-core kernel: bias, rounding, and stores to a result of any strides.
#pragma once

#include "elements.cuh"
#include "operators.h"

namespace symconv::cuda {

struct ResultView {
  void* data;
  int64_t strides[5];  // elements, of (n, channel, z, v, h)
};
struct BiasView {
  const void* data;  // one number per channel, or null
  int64_t stride;
};

// Adds the bias to the values of two neighbouring channels and stores them, the second one only where it
// exists. `point` is the offset of the result's point, without the channel.
template <typename Storage>
__device__ __forceinline__ void store_pair(const ResultView& result, const BiasView& bias, int64_t point,
                                           int64_t channel, float first, float second, bool has_second) {
  if (bias.data) {
    const Storage* b = static_cast<const Storage*>(bias.data);
    first += Element<Storage>::load(b[channel * bias.stride]);
    if (has_second) second += Element<Storage>::load(b[(channel + 1) * bias.stride]);
  }
  Storage* to = static_cast<Storage*>(result.data) + point + channel * result.strides[1];
  struct alignas(2 * sizeof(Storage)) Pair {
    Storage values[2];
  };
  const Pair pair{{Element<Storage>::store(first), Element<Storage>::store(second)}};
  if (has_second && result.strides[1] == 1 && reinterpret_cast<uintptr_t>(to) % sizeof(Pair) == 0) {
    store_global(to, pair);
    return;
  }
  to[0] = pair.values[0];
  if (has_second) to[result.strides[1]] = pair.values[1];
}

}  // namespace symconv::cuda
