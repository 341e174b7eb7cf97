// AVX-512 (F, BW, DQ, VL): 32 registers of 64 bytes. A micro-tile of 8 x 3 vectors takes 24 of them, B three,
// A one.
#define SYMCONV_VECTOR_BYTES 64
#include "isa.h"
#include "kernels_impl.h"

namespace symconv::cpu::isa {
const Kernels<float> avx512_float = make_kernels<float, 8, 3>("avx512", 40 << 10, 1 << 20);
const Kernels<double> avx512_double = make_kernels<double, 8, 3>("avx512", 40 << 10, 1 << 20);
}  // namespace symconv::cpu::isa
