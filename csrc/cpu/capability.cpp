// Which instruction set's kernels are in use.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "isa/isa.h"

namespace symconv::cpu {
namespace {

struct Candidate {
  const char* name;
  bool available;
  const Kernels<float>* single;
  const Kernels<double>* twice;
};

bool has_avx2() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

// Lowest first.
const Candidate candidates[] = {
    {"default", true, &isa::portable_float, &isa::portable_double},
#if defined(__x86_64__)
    {"avx2", has_avx2(), &isa::avx2_float, &isa::avx2_double},
    {"avx512", has_avx512(), &isa::avx512_float, &isa::avx512_double},
#elif defined(__aarch64__)
    {"neon", true, &isa::neon_float, &isa::neon_double},
#endif
};

const Candidate& chosen() {
  const char* wanted = std::getenv("SYMCONV_CPU_CAPABILITY");
  if (wanted && *wanted) {
    std::string names;
    for (const Candidate& c : candidates) {
      if (!c.available) continue;
      if (!std::strcmp(wanted, c.name)) return c;
      names += std::string(names.empty() ? "" : ", ") + c.name;
    }
    throw std::runtime_error("SYMCONV_CPU_CAPABILITY: expected one of " + names + " on this processor, got " +
                             wanted);
  }
  const Candidate* best = &candidates[0];
  for (const Candidate& c : candidates) {
    if (c.available) best = &c;
  }
  return *best;
}

const Candidate& in_use() {
  static const Candidate& candidate = chosen();
  return candidate;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return *in_use().single;
}
template <>
const Kernels<double>& kernels<double>() {
  return *in_use().twice;
}

const char* capability() { return in_use().name; }

}  // namespace symconv::cpu
