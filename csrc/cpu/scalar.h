// The element types of tensors on the CPU: float, double, and the two 16-bit formats with their conversions
// to float32.
#pragma once

#include <cstdint>
#include <cstring>

#include "operators.h"

namespace symconv::cpu {

namespace bits {
inline float to_float(uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline uint32_t from_float(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}
}  // namespace bits

// bfloat16: the upper half of a float32, rounded to nearest even.
struct BFloat16 {
  uint16_t u;
  BFloat16() = default;
  explicit BFloat16(float f) {
    const uint32_t b = bits::from_float(f);
    u = f != f ? 0x7fc0 : static_cast<uint16_t>((b + 0x7fff + ((b >> 16) & 1)) >> 16);
  }
  explicit operator float() const { return bits::to_float(static_cast<uint32_t>(u) << 16); }
  explicit operator double() const { return static_cast<float>(*this); }
};

// IEEE float16, rounded to nearest even, with denormals and infinities.
struct Float16 {
  uint16_t u;
  Float16() = default;
  explicit Float16(float f) {
    const uint32_t b = bits::from_float(f), sign = (b >> 16) & 0x8000u, magnitude = b & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
      u = static_cast<uint16_t>(sign | 0x7e00u);
    } else if (magnitude >= 0x477ff000u) {  // rounds to 65536 or is infinite
      u = static_cast<uint16_t>(sign | 0x7c00u);
    } else if (magnitude < 0x38800000u) {  // denormal in float16: let float32 addition do the rounding
      const float shifted = bits::to_float(magnitude) + 0.5f;
      u = static_cast<uint16_t>(sign | (bits::from_float(shifted) - 0x3f000000u));
    } else {
      const uint32_t odd = (magnitude >> 13) & 1;
      u = static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
    }
  }
  explicit operator float() const {
    const uint32_t sign = (u & 0x8000u) << 16, magnitude = u & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits::to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude >= 0x400u) return bits::to_float(sign | ((magnitude << 13) + 0x38000000u));
    const float denormal = bits::to_float((magnitude << 13) + 0x38800000u) - bits::to_float(0x38800000u);
    // (magnitude << 13) below 0x00800000: adding the exponent of 2^-14 and taking it off again gives
    // magnitude * 2^-24
    return bits::to_float(sign | bits::from_float(denormal));
  }
  explicit operator double() const { return static_cast<float>(*this); }
};

// Calls f with a value of the element type of `dtype`.
template <typename F>
auto dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kFloat16:
      return f(Float16{});
    default:
      return f(BFloat16{});
  }
}

}  // namespace symconv::cpu
