// What the warp collectives compute: shuffles, ldmatrix and mma.sync, on the operands of all 32 lanes.
#pragma once

#include "scheduler.h"

namespace symconv::emulator {

// operands[lane] points to that lane's ShuffleOperand, LdmatrixOperand or MmaOperand.
void execute(Collective op, int variant, void* const* operands);

}  // namespace symconv::emulator
