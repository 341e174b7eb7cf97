// dgrad from its pieces: see Convolution::dgrad.
#pragma once

#include <functional>

#include "convolve.h"

namespace symconv::cpu {

// Runs `piece` for every piece of a dgrad of `problem` that has to be computed. Points that no tap reaches
// are those of pieces without taps: where they hold no bias, all of grad_input is set to zero first, in one
// go, and these pieces are left out.
void run_pieces(const Problem& problem, const ConvolutionPlans& pieces, const Tensor& bias,
                const Tensor& grad_input, const Threads& threads,
                const std::function<void(const ConvolutionPlan&)>& piece);

}  // namespace symconv::cpu
