// What the binding sees of torch: tensors through the LibTorch Stable ABI, and how it speaks of them in
// errors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace symconv::binding {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

// Throws std::runtime_error, which arrives in Python as RuntimeError; the message is all the parts in a row.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// "[8, 16, 32]"
std::string text(const Ints& numbers);
inline std::string text(torch::headeronly::IntHeaderOnlyArrayRef numbers) { return text(numbers.vec()); }

}  // namespace symconv::binding
