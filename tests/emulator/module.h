// The parts that make up the emulator's Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace symconv::emulator {

// fprop, dgrad and wgrad of csrc/cuda/operators.h on buffers.
void bind_operators(pybind11::module_& module);

}  // namespace symconv::emulator
