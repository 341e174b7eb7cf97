// The tables that the files of this folder define, one pair per instruction set.
#pragma once

#include "../kernels.h"

#define SYMCONV_DECLARE_ISA(name)             \
  namespace symconv::cpu::isa {               \
  extern const Kernels<float> name##_float;   \
  extern const Kernels<double> name##_double; \
  }

SYMCONV_DECLARE_ISA(portable)
SYMCONV_DECLARE_ISA(matrix_twin)
#if defined(__x86_64__)
SYMCONV_DECLARE_ISA(avx2)
SYMCONV_DECLARE_ISA(avx512)
SYMCONV_DECLARE_ISA(amx)
#elif defined(__aarch64__)
SYMCONV_DECLARE_ISA(neon)
#endif

namespace symconv::cpu {

// A table with a matrix unit, under another name.
template <typename T>
static inline Kernels<T> with_matrix(const char* name, Kernels<T> kernels, const MatrixKernels<T>* matrix) {
  kernels.name = name;
  kernels.matrix = matrix;
  return kernels;
}

}  // namespace symconv::cpu
