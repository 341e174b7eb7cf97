// The loops of a virtual convolution: fprop, and every piece of a dgrad.
#pragma once

#include <memory>
#include <vector>

#include "convolution.h"
#include "operators.h"

namespace symconv::cpu {

// How one convolution is computed on a number of threads, with all that does not depend on its tensors.
class ConvolutionPlan {
 public:
  virtual ~ConvolutionPlan() = default;

  virtual const Convolution& convolution() const = 0;

  // Of packed weights.
  virtual int64_t packed_elements() const = 0;
  // Folds and packs `weight` for run().
  virtual void pack(const Tensor& weight, void* packed, const Threads& threads) const = 0;

  // source (N, column channels) -> output (N, row channels), at the convolution's output points. Either
  // `weight` or `packed` (from pack(), as the plan was made for) is given. `bias` has one value per row
  // channel, or null data.
  virtual void run(const Tensor& source, const Tensor& weight, const void* packed, const Tensor& bias,
                   const Tensor& output, const Threads& threads) const = 0;
};

using ConvolutionPlans = std::vector<std::unique_ptr<const ConvolutionPlan>>;

// `packed`: whether it is run with packed weights. The convolution has output points.
std::unique_ptr<const ConvolutionPlan> plan_convolution(const Convolution& convolution, DType dtype,
                                                        int threads, bool packed);

}  // namespace symconv::cpu
