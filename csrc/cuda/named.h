// Operators, dtypes and problems as Python names them, and which kernel that comes to.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "operators.h"

namespace symconv::cuda {

// batch, A, B, groups, transposed, then input, output, kernel, stride, padding, dilation (z, v, h each), then
// orbits.
inline Problem problem_of(const std::vector<int64_t>& numbers) {
  constexpr size_t kNumbers = 5 + 6 * kAxes + kBlocks;
  if (numbers.size() != kNumbers) {
    throw std::runtime_error("problem: expected " + std::to_string(kNumbers) + " numbers, got " +
                             std::to_string(numbers.size()));
  }
  Problem p{};
  auto next = numbers.begin();
  p.batch = *next++;
  p.a_channels = *next++;
  p.b_channels = *next++;
  p.groups = *next++;
  p.transposed = *next++ != 0;
  for (int64_t* field : {p.input, p.output, p.kernel, p.stride, p.padding, p.dilation}) {
    for (int d = 0; d < kAxes; ++d) field[d] = *next++;
  }
  for (int b = 0; b < kBlocks; ++b) p.orbits[b] = *next++;
  return p;
}

inline Operator operator_of(const std::string& name) {
  if (name == "fprop") return Operator::kFprop;
  if (name == "dgrad") return Operator::kDgrad;
  if (name == "wgrad") return Operator::kWgrad;
  throw std::runtime_error("operator: expected 'fprop', 'dgrad' or 'wgrad', got '" + name + "'");
}

inline DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  throw std::runtime_error("dtype: expected a floating dtype of the kernels, got '" + name + "'");
}

inline const char* kernel_name(const std::string& op, const std::string& dtype, bool allow_tf32,
                               const std::vector<int64_t>& numbers) {
  const Kernel kernel = kernel_for(operator_of(op), problem_of(numbers), dtype_of(dtype), allow_tf32);
  return kernel == Kernel::kTensorCore ? "tensor core" : "plain";
}

}  // namespace symconv::cuda
