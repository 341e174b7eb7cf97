// See plans.h.
#include "plans.h"

#include "recent.h"

namespace symconv::cpu {
namespace {

std::optional<ConvolutionPlans> make_plans(const Problem& problem, Pass pass, DType dtype, int threads,
                                           bool packed) {
  const std::vector<Convolution> pieces = pass == Pass::kDgrad
                                              ? Convolution::dgrad(problem)
                                              : std::vector<Convolution>{Convolution::fprop(problem)};
  if (pieces.empty()) return std::nullopt;
  ConvolutionPlans plans;
  for (const Convolution& piece : pieces) {
    if (piece.batch * piece.output[0] * piece.output[1] * piece.output[2] == 0) continue;
    plans.push_back(plan_convolution(piece, dtype, threads, packed));
  }
  return plans;
}

}  // namespace

const std::optional<ConvolutionPlans>& plans_of(const Problem& problem, Pass pass, DType dtype, int threads,
                                                bool packed) {
  static thread_local Recent<std::optional<ConvolutionPlans>> recent;
  int64_t variant = threads;
  for (const bool bit : {packed, pass == Pass::kDgrad, dtype == DType::kFloat64}) variant = 2 * variant + bit;
  return recent.get(problem, variant, [&] { return make_plans(problem, pass, dtype, threads, packed); });
}

}  // namespace symconv::cpu
