// Element types of tensors on the device: what they accumulate in, and views of strided tensors.
#pragma once

#include <cstdint>

#include "../common/problem.h"
#include "arch.cuh"
#include "operators.h"

namespace symconv::cuda {

template <typename T>
struct Element {  // Float16 and BFloat16
  using Real = float;
  static __device__ __forceinline__ Real load(T value) { return to_float(value); }
  static __device__ __forceinline__ T store(Real value) { return from_float<T>(value); }
};
template <>
struct Element<float> {
  using Real = float;
  static __device__ __forceinline__ Real load(float value) { return value; }
  static __device__ __forceinline__ float store(Real value) { return value; }
};
template <>
struct Element<double> {
  using Real = double;
  static __device__ __forceinline__ Real load(double value) { return value; }
  static __device__ __forceinline__ double store(Real value) { return value; }
};

// A five-dimensional strided tensor of T: (n, c, z, v, h).
template <typename T>
struct View {
  T* data;
  int64_t strides[5];

  View() = default;
  explicit View(const Tensor& tensor) : data(static_cast<T*>(tensor.data)) {
    for (int d = 0; d < 5; ++d) strides[d] = tensor.strides[d];
  }
  __device__ __forceinline__ T& at(int64_t n, int64_t c, const int64_t* point) const {
    return data[n * strides[0] + c * strides[1] + point[0] * strides[2] + point[1] * strides[3] +
                point[2] * strides[4]];
  }
};

// Division of 0 <= n < 2^52 by a number that the host knows: the device's own 64-bit division is a call that
// spills registers.
struct Divisor {
  int64_t value;
  double inverse;

  Divisor() = default;
  explicit Divisor(int64_t d) : value(d), inverse(1.0 / static_cast<double>(d)) {}
  // Returns the quotient and leaves the remainder in n.
  __device__ __forceinline__ int64_t divide(int64_t& n) const {
    int64_t quotient = static_cast<int64_t>(static_cast<double>(n) * inverse);
    n -= quotient * value;
    if (n < 0) {
      --quotient;
      n += value;
    } else if (n >= value) {
      ++quotient;
      n -= value;
    }
    return quotient;
  }
};

// Calls f with a value of the element type of `dtype`.
template <typename F>
void dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kFloat16:
      return f(Float16{});
    case DType::kBFloat16:
      return f(BFloat16{});
  }
}

}  // namespace symconv::cuda
