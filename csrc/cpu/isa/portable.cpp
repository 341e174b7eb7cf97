// The plain twin: the same kernels for any processor, in vectors of 16 bytes that the compiler maps to what
// there is.
#define SYMCONV_VECTOR_BYTES 16
#include "isa.h"
#include "kernels_impl.h"

namespace symconv::cpu::isa {
const Kernels<float> portable_float = make_kernels<float, 4, 2>("default", 24 << 10, 256 << 10);
const Kernels<double> portable_double = make_kernels<double, 4, 2>("default", 24 << 10, 256 << 10);
}  // namespace symconv::cpu::isa
