// NEON (ARMv8 Advanced SIMD): 32 registers of 16 bytes. A micro-tile of 8 x 3 vectors takes 24 of them.
#define SYMCONV_VECTOR_BYTES 16
#include "isa.h"
#include "kernels_impl.h"

namespace symconv::cpu::isa {
const Kernels<float> neon_float = make_kernels<float, 8, 3>("neon", 28 << 10, 384 << 10);
const Kernels<double> neon_double = make_kernels<double, 8, 3>("neon", 28 << 10, 384 << 10);
}  // namespace symconv::cpu::isa
