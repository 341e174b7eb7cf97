// The plans of fprop and dgrad, made at the first of many calls.
#pragma once

#include <optional>

#include "convolve.h"

namespace symconv::cpu {

// The convolutions that together compute `pass` of a problem, those without output points left out; none
// where a dgrad has no such form (see Convolution::dgrad). Valid until this thread's next call.
const std::optional<ConvolutionPlans>& plans_of(const Problem& problem, Pass pass, DType dtype, int threads,
                                                bool packed);

}  // namespace symconv::cpu
