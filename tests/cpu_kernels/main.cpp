// Runs the checks of the CPU micro-kernels. See usage() and tests/test_cpu_kernels.py.
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "checks.h"

namespace symconv::test {

char current_case[400];

namespace {

int usage() {
  std::fprintf(stderr,
               "usage: cpu_kernels capabilities            what this processor has, one a line\n"
               "       cpu_kernels capability              what is in use, and its kernels' name\n"
               "       cpu_kernels check NAME SEED COUNT   COUNT random problems for every kernel of NAME;\n"
               "                                           exits with 1 where a check fails\n");
  return 2;
}

void crashed(int signal) {
  const auto say = [](const char* text) {
    if (write(STDOUT_FILENO, text, std::strlen(text)) < 0) _exit(4);
  };
  say("touched memory that is not its own: ");
  say(current_case);
  say("\n");
  _exit(signal == SIGSEGV ? 3 : 4);
}

template <typename T, typename Stored>
constexpr const char* kTypes = nullptr;
template <>
constexpr const char* kTypes<float, float> = "float32";
template <>
constexpr const char* kTypes<double, double> = "float64";
template <>
constexpr const char* kTypes<float, Float16> = "float16";
template <>
constexpr const char* kTypes<float, BFloat16> = "bfloat16";

// Runs body, prints its counts; the number of failures.
template <typename Body>
int64_t count(const char* type, const char* subject, Body&& body) {
  Report report;
  body(report);
  std::printf("%s %s: %lld passed, %lld failed\n", type, subject, static_cast<long long>(report.passed),
              static_cast<long long>(report.failed));
  std::fflush(stdout);
  return report.failed;
}

template <typename T, typename Stored>
int64_t check_storage(const Kernels<T>& kernels, Random& random, int64_t problems) {
  using Check = void (*)(const Kernels<T>&, Random&, Report&);
  const auto repeat = [&](const char* kernel, Check check) {
    return count(kTypes<T, Stored>, kernel, [&](Report& report) {
      for (int64_t i = 0; i < problems; ++i) check(kernels, random, report);
    });
  };
  int64_t failed = 0;
  if constexpr (sizeof(T) == sizeof(Stored)) {
    failed += repeat("gemm", check_gemm<T>) + repeat("fold", check_fold<T>);
    failed += repeat("fold_points", check_fold_points<T>) + repeat("add_rows", check_add_rows<T>);
  }
  failed += repeat("stage", check_stage<T, Stored>) + repeat("epilogue", check_epilogue<T, Stored>);
  failed += repeat("stage_rows", check_stage_rows<T, Stored>);
  failed += repeat("slots", check_slots<T, Stored>) + repeat("fold_weight", check_fold_weight<T, Stored>);
  failed += repeat("unfold_weight", check_unfold_weight<T, Stored>);
  if constexpr (std::is_same_v<Stored, float>) {
    if (kernels.matrix) failed += repeat("matrix", check_matrix);
  }
  if constexpr (sizeof(Stored) == 2) {
    failed += count(kTypes<T, Stored>, "widening", [&](Report& r) { check_widening<Stored>(kernels, r); });
    failed += count(kTypes<T, Stored>, "narrowing",
                    [&](Report& r) { check_narrowing<Stored>(kernels, random, r); });
  }
  return failed;
}

int run(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "capabilities" && argc == 2) {
    for (const std::string& name : capabilities()) std::printf("%s\n", name.c_str());
    return 0;
  }
  if (what == "capability" && argc == 2) {
    std::printf("%s %s %s\n", capability(), kernels<float>().name, kernels<double>().name);
    return 0;
  }
  if (what != "check" || argc != 5) return usage();
  const std::string name = argv[2];
  Random random(std::strtoull(argv[3], nullptr, 10));
  const int64_t problems = std::atoll(argv[4]);
  int64_t failed = count("memory", "ahead", [&](Report& report) {
    for (int64_t i = 0; i < problems; ++i) check_ahead(random, report);
  });
  failed += check_storage<float, float>(kernels<float>(name), random, problems);
  failed += check_storage<float, Float16>(kernels<float>(name), random, problems);
  failed += check_storage<float, BFloat16>(kernels<float>(name), random, problems);
  failed += check_storage<double, double>(kernels<double>(name), random, problems);
  return failed > 0;
}

}  // namespace
}  // namespace symconv::test

int main(int argc, char** argv) {
  std::signal(SIGSEGV, symconv::test::crashed);
  std::signal(SIGBUS, symconv::test::crashed);
  std::signal(SIGILL, symconv::test::crashed);
  try {
    return symconv::test::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
