// What the checks share: random numbers, the count of passes and failures, the types of tensors.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <random>
#include <type_traits>

#include "../../csrc/cpu/kernels.h"
#include "../../csrc/cpu/scalar.h"

namespace symconv::test {

using namespace symconv::cpu;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // low..high, both included.
  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  bool chance(double p) { return std::bernoulli_distribution(p)(engine_); }
  int64_t one_of(std::initializer_list<int64_t> values) {
    return values.begin()[between(0, static_cast<int64_t>(values.size()) - 1)];
  }
  // Small whole numbers: every sum of them is exact in every type, so that results must agree bit by bit.
  template <typename T>
  T number() {
    return T(static_cast<float>(between(-4, 4)));
  }

 private:
  std::mt19937_64 engine_;
};

// The case that runs, in words; a crash prints it.
extern char current_case[400];

class Report {
 public:
  [[gnu::format(printf, 2, 3)]] void begin(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(current_case, sizeof current_case, format, arguments);
    va_end(arguments);
  }
  [[gnu::format(printf, 3, 4)]] void check(bool good, const char* format, ...) {
    ++(good ? passed : failed);
    if (good || failed > 8) return;
    std::printf("  %s: ", current_case);
    va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::printf("\n");
  }
  int64_t passed = 0, failed = 0;
};

template <typename Stored>
constexpr DType kDType = std::is_same_v<Stored, float>     ? DType::kFloat32
                         : std::is_same_v<Stored, double>  ? DType::kFloat64
                         : std::is_same_v<Stored, Float16> ? DType::kFloat16
                                                           : DType::kBFloat16;

// Random problems of one kernel of a table that computes in T, on tensors of type Stored. Each runs twice,
// at either side of a forbidden page.
template <typename T>
void check_gemm(const Kernels<T>&, Random&, Report&);
template <typename T>
void check_fold(const Kernels<T>&, Random&, Report&);
void check_matrix(const Kernels<float>&, Random&, Report&);
template <typename T, typename Stored>
void check_stage(const Kernels<T>&, Random&, Report&);
template <typename T, typename Stored>
void check_stage_rows(const Kernels<T>&, Random&, Report&);
template <typename T>
void check_add_rows(const Kernels<T>&, Random&, Report&);
template <typename T, typename Stored>
void check_epilogue(const Kernels<T>&, Random&, Report&);
template <typename T, typename Stored>
void check_fold_weight(const Kernels<T>&, Random&, Report&);
template <typename T, typename Stored>
void check_slots(const Kernels<T>&, Random&, Report&);
template <typename T>
void check_fold_points(const Kernels<T>&, Random&, Report&);
template <typename T, typename Stored>
void check_unfold_weight(const Kernels<T>&, Random&, Report&);

// Random ranges and planes.
void check_ahead(Random&, Report&);

// Every value of a half type to float32, and float32 to it: rounding, ties, denormals, infinities, NaN.
template <typename Stored>
void check_widening(const Kernels<float>&, Report&);
template <typename Stored>
void check_narrowing(const Kernels<float>&, Random&, Report&);

}  // namespace symconv::test
