// Which instruction set's kernels are in use.
#include <cstdlib>
#include <stdexcept>

#include "isa/isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace symconv::cpu {
namespace {

struct Candidate {
  const char* name;
  bool available;
  const Kernels<float>* float_kernels;
  const Kernels<double>* double_kernels;
};

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// Whether there is AMX with bfloat16, and the system lets this process use it, which it has to be asked for.
bool has_amx() {
#if defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!has_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tiles = (d >> 24 & 1) && (d >> 22 & 1);
  if (!tiles || !__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return false;  // AVX512_BF16
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

// Lowest first.
const Candidate candidates[] = {
    {kReference, true, &isa::portable_float, &isa::portable_double},
    {"matrix_twin", true, &isa::matrix_twin_float, &isa::matrix_twin_double},
    {"default", true, &isa::portable_float, &isa::portable_double},
#if defined(__x86_64__)
    {"avx2", has_avx2(), &isa::avx2_float, &isa::avx2_double},
    {"avx512", has_avx512(), &isa::avx512_float, &isa::avx512_double},
    {"amx", has_amx(), &isa::amx_float, &isa::amx_double},
#elif defined(__aarch64__)
    {"neon", true, &isa::neon_float, &isa::neon_double},
#endif
};

const Candidate& find(const std::string& name, const char* asked_by) {
  std::string names;
  for (const Candidate& c : candidates) {
    if (!c.available) continue;
    if (name == c.name) return c;
    names += std::string(names.empty() ? "" : ", ") + c.name;
  }
  throw std::runtime_error(std::string(asked_by) + ": expected one of " + names +
                           ", which are those of this processor, got '" + name + "'");
}

const Candidate& choose() {
  const char* wanted = std::getenv("SYMCONV_CPU_CAPABILITY");
  return find(wanted && *wanted ? wanted : capabilities().back(), "SYMCONV_CPU_CAPABILITY");
}

const Candidate& in_use() {
  static const Candidate& candidate = choose();
  return candidate;
}

}  // namespace

template <>
const Kernels<float>& kernels<float>() {
  return *in_use().float_kernels;
}
template <>
const Kernels<double>& kernels<double>() {
  return *in_use().double_kernels;
}

template <>
const Kernels<float>& kernels<float>(const std::string& name) {
  return *find(name, "kernels").float_kernels;
}
template <>
const Kernels<double>& kernels<double>(const std::string& name) {
  return *find(name, "kernels").double_kernels;
}

const char* capability() { return in_use().name; }

std::vector<std::string> capabilities() {
  std::vector<std::string> names;
  for (const Candidate& c : candidates) {
    if (c.available) names.push_back(c.name);
  }
  return names;
}

}  // namespace symconv::cpu
