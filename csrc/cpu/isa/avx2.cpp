// AVX2 with FMA and F16C: 16 registers of 32 bytes. A micro-tile of 4 x 3 vectors takes 12 of them, B three,
// A one.
#define SYMCONV_VECTOR_BYTES 32
#include "isa.h"
#include "kernels_impl.h"

namespace symconv::cpu::isa {
const Kernels<float> avx2_float = make_kernels<float, 4, 3>("avx2", 28 << 10, 384 << 10);
const Kernels<double> avx2_double = make_kernels<double, 4, 3>("avx2", 28 << 10, 384 << 10);
}  // namespace symconv::cpu::isa
