// The CPU operators as the torch binding (and any other caller) sees them: no torch, no globals, threads
// passed in.
#pragma once

#include <cstdint>
#include <functional>

#include "../common/problem.h"

namespace symconv::cpu {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16 };

constexpr int64_t element_size(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// A tensor on loan: element strides of (batch or rows, channels or columns, z, v, h); any strides, zero ones
// too where the tensor is only read.
struct Tensor {
  void* data;
  DType dtype;
  int64_t strides[5];
};

// Runs body(begin, end) over pieces of [0, n) on up to `count` threads; pieces may run at the same time, each
// at most once, and `run` returns when all are done.
struct Threads {
  int count;
  std::function<void(int64_t n, const std::function<void(int64_t begin, int64_t end)>& body)> run;
};

// Each operator computes all of its result: nothing is read from it. All tensors have one dtype; half types
// accumulate in float32. `weight` is the reduced weight (weight_rows, weight_columns, *kernel), `bias` has
// one value per channel of the result, or null data. The problem has been checked: sizes are consistent,
// groups divide orbits.

// input (N, B, *input), weight -> output (N, A, *output)
void fprop(const Problem&, const Tensor& input, const Tensor& weight, const Tensor& bias,
           const Tensor& output, const Threads&);
// grad_output (N, A, *output), weight -> grad_input (N, B, *input)
void dgrad(const Problem&, const Tensor& grad_output, const Tensor& weight, const Tensor& bias,
           const Tensor& grad_input, const Threads&);
// grad_output (N, A, *output), input (N, B, *input) -> grad_weight, in the reduced weight's shape
void wgrad(const Problem&, const Tensor& grad_output, const Tensor& input, const Tensor& grad_weight,
           const Threads&);

// The same from packed weights: see packed.h. A pack is made for one of the two and fits every problem that
// differs only in batch, input and output. The stride must be the one that the pack was made with.
enum class Pass { kFprop, kDgrad };
// Elements of a pack, float64 ones for float64 and float32 ones otherwise; 0 where there is no packed form.
int64_t pack_elements(const Problem&, Pass, DType);
void pack(const Problem&, Pass, const Tensor& weight, void* packed, const Threads&);
// Whether `packed`, of `elements` elements, was made for such a problem, by kernels like those in use.
bool fits(const Problem&, Pass, const void* packed, int64_t elements, DType);
void fprop_packed(const Problem&, const Tensor& input, const void* packed, const Tensor& bias,
                  const Tensor& output, const Threads&);
void dgrad_packed(const Problem&, const Tensor& grad_output, const void* packed, const Tensor& bias,
                  const Tensor& grad_input, const Threads&);

// weight -> dense (A, B/groups, *kernel), mirrored
void mirror(const Problem&, const Tensor& weight, const Tensor& dense, const Threads&);

}  // namespace symconv::cpu
