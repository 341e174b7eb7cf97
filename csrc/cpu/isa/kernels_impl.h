// The micro-kernels of kernels.h for one instruction set. Included by avx512.cpp, avx2.cpp, neon.cpp and
// portable.cpp.
#pragma once

#include "fold_impl.h"
#include "fold_weight_impl.h"
#include "gemm_impl.h"
#include "tensor_impl.h"
#include "wgrad_impl.h"

namespace symconv::cpu {
namespace {

// The table of one instruction set, for a micro-tile of Rows x Vectors.
template <typename T, int Rows, int Vectors>
constexpr Kernels<T> make_kernels(const char* name, int64_t l1_bytes, int64_t l2_bytes) {
  return {name,
          kLanes<T>,
          Vectors,
          Rows,
          l1_bytes,
          l2_bytes,
          kMaskedReads,
          kFoldsAside,
          nullptr,
          Gemm<T, Rows, Vectors>::run,
          fold<T>,
          stage<T>,
          stage_rows<T>,
          add_rows<T>,
          epilogue<T>,
          slots<T>,
          fold_points<T>,
          fold_weight<T>,
          unfold_weight<T>};
}

}  // namespace
}  // namespace symconv::cpu
