// The tables that the files of this folder define, one pair per instruction set.
#pragma once

#include "../kernels.h"

#define SYMCONV_DECLARE_ISA(name)             \
  namespace symconv::cpu::isa {               \
  extern const Kernels<float> name##_float;   \
  extern const Kernels<double> name##_double; \
  }

SYMCONV_DECLARE_ISA(portable)
#if defined(__x86_64__)
SYMCONV_DECLARE_ISA(avx2)
SYMCONV_DECLARE_ISA(avx512)
#elif defined(__aarch64__)
SYMCONV_DECLARE_ISA(neon)
#endif
