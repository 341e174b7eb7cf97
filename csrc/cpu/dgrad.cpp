// Which pieces of a dgrad are computed: see dgrad.h.
#include "dgrad.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace symconv::cpu {
namespace {

// Elements of grad_input, if they fill a range of memory; else 0.
int64_t filled_elements(const Problem& p, const Tensor& grad_input) {
  const int64_t sizes[5] = {p.batch, p.b_channels, p.input[0], p.input[1], p.input[2]};
  std::pair<int64_t, int64_t> dims[5];  // stride, size
  for (int d = 0; d < 5; ++d) dims[d] = {grad_input.strides[d], sizes[d]};
  std::sort(std::begin(dims), std::end(dims));
  int64_t elements = 1;
  for (const auto& [stride, size] : dims) {
    if (size != 1 && stride != elements) return 0;
    elements *= size;
  }
  return elements;
}

}  // namespace

void run_pieces(const Problem& problem, const ConvolutionPlans& pieces, const Tensor& bias,
                const Tensor& grad_input, const Threads& threads,
                const std::function<void(const ConvolutionPlan&)>& piece) {
  const auto is_reached = [](const auto& plan) { return plan->convolution().taps() > 0; };
  const bool all_reached = std::all_of(pieces.begin(), pieces.end(), is_reached);
  const int64_t bytes =
      all_reached || bias.data ? 0 : filled_elements(problem, grad_input) * element_size(grad_input.dtype);
  constexpr int64_t kBlock = 1 << 16;
  threads.run((bytes + kBlock - 1) / kBlock, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(grad_input.data) + begin * kBlock, 0,
                std::min(bytes, end * kBlock) - begin * kBlock);
  });
  for (const auto& plan : pieces) {
    if (is_reached(plan) || bytes == 0) piece(*plan);
  }
}

}  // namespace symconv::cpu
