// From run-time values to compile-time ones.
#pragma once

#include <type_traits>

#include "../scalar.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

// Calls f with an element of the storage type; T = double computes on float64 only, T = float on the other
// three.
template <typename T, typename F>
SYMCONV_INLINE void with_storage(DType dtype, F&& f) {
  if constexpr (sizeof(T) == 8) {
    f(double{});
  } else {
    if (dtype == DType::kFloat32) return f(float{});
    if (dtype == DType::kFloat16) return f(Float16{});
    f(BFloat16{});
  }
}

// Calls f with std::integral_constant<int, n> for n = 1, 2, 4, 8.
template <typename F>
SYMCONV_INLINE void with_power(int n, F&& f) {
  if (n == 1) return f(std::integral_constant<int, 1>{});
  if (n == 2) return f(std::integral_constant<int, 2>{});
  if (n == 4) return f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, 8>{});
}

}  // namespace
}  // namespace symconv::cpu
