// Times the CPU micro-kernels one by one, on one core, with operands where the loops find them: the GEMM's
// panel of B and its A in the L2 cache, the others' likewise. benchmarks/kernels.py builds and runs it.
//
//     kernels [CAPABILITY]...    without names: all that this processor has but `reference`
//
// Prints comma-separated lines: capability, kernel, case, unit, value.
#include "../csrc/cpu/kernels.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace {

using namespace symconv::cpu;

constexpr int kRepeats = 40;

// Seconds that one call takes: the best of many short samples.
double seconds(const std::function<void()>& call) {
  using Clock = std::chrono::steady_clock;
  int64_t count = 1;
  double best = 1e30;
  for (int sample = 0; sample < kRepeats;) {
    const auto start = Clock::now();
    for (int64_t i = 0; i < count; ++i) call();
    const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    if (elapsed < 3e-4) {
      count *= 2;
      continue;
    }
    best = std::min(best, elapsed / static_cast<double>(count));
    ++sample;
  }
  return best;
}

// Cycles per second: a chain of dependent multiplications takes three cycles each.
double frequency() {
#if defined(__x86_64__)
  const double time = seconds([] {
    int64_t x = 0;
    for (int i = 0; i < 1000; ++i) {
      asm volatile("imul %0, %0\nimul %0, %0\nimul %0, %0\nimul %0, %0\nimul %0, %0\n" : "+r"(x));
    }
  });
  return 15e3 / time;
#else
  return 0;
#endif
}

// Fused multiply-adds of whole vectors per second, from registers alone.
double fma_peak(int vector_bytes) {
#if defined(__x86_64__)
  // clang-format off
#define SYMCONV_FMA(reg, n) "vfmadd231ps %%" reg "15, %%" reg "14, %%" reg n "\n"
#define SYMCONV_FMAS(reg)                                                                         \
  SYMCONV_FMA(reg, "0") SYMCONV_FMA(reg, "1") SYMCONV_FMA(reg, "2") SYMCONV_FMA(reg, "3")         \
  SYMCONV_FMA(reg, "4") SYMCONV_FMA(reg, "5") SYMCONV_FMA(reg, "6") SYMCONV_FMA(reg, "7")         \
  SYMCONV_FMA(reg, "8") SYMCONV_FMA(reg, "9") SYMCONV_FMA(reg, "10") SYMCONV_FMA(reg, "11")
// clang-format on
#define SYMCONV_CLOBBERS                                                                                     \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", \
      "xmm15"
  const double time = seconds([=] {
    for (int i = 0; i < 1000; ++i) {
      if (vector_bytes == 64) {
        asm volatile(SYMCONV_FMAS("zmm") : : : SYMCONV_CLOBBERS);
      } else {
        asm volatile(SYMCONV_FMAS("ymm") : : : SYMCONV_CLOBBERS);
      }
    }
    asm volatile("vzeroupper" : : :);
  });
  return 12e3 / time;
#else
  (void)vector_bytes;
  return 0;
#endif
}

void wait(double time) {
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < time) {
  }
}

// Nanoseconds to read a line of cold channels_last filters, a part of each tap's channels: if they were not
// asked for, if all were prefetched before at once, and if one was at a time.
void print_prefetch() {
  constexpr int kFilters = 64, kTaps = 9, kTap = 2048, kLines = 6, kTries = 20;
  std::vector<char> filters(static_cast<size_t>(kFilters) * kTaps * kTap + kLine, 1), others(256 << 20);
  std::vector<const char*> lines;
  for (int row = 0; row < kFilters * kTaps; ++row) {
    for (int i = 0; i < kLines; ++i) lines.push_back(filters.data() + row * kTap + i * kLine);
  }
  const char* const ways[] = {"not asked for", "prefetched at once", "prefetched one by one"};
  for (int way = 0; way < 3; ++way) {
    double best = 1e30;
    for (int i = 0; i < kTries; ++i) {
      for (size_t at = 0; at < others.size(); at += kLine) ++others[at];
      for (const char* line : lines) {
        if (way > 0) __builtin_prefetch(line, 0, 2);
        if (way > 1) wait(4e-8);
      }
      wait(1e-4);
      const auto start = std::chrono::steady_clock::now();
      for (const char* line : lines) (void)*static_cast<const volatile char*>(line);
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      best = std::min(best, elapsed.count());
    }
    std::printf("all,%zu cold lines,%s,ns a line,%.3g\n", lines.size(), ways[way],
                best * 1e9 / static_cast<double>(lines.size()));
  }
}

std::vector<float> numbers(int64_t count) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 17) - 8.0f;
  return values;
}

// A 64-byte aligned view of a vector that is long enough.
float* aligned(std::vector<float>& values) {
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(values.data()) + 63) / 64 * 64);
}

class Bench {
 public:
  Bench(const std::string& name, double hertz) : k_(kernels<float>(name)), name_(name), hertz_(hertz) {}

  void run() {
    const bool known_peak = name_ == "avx2" || name_ == "avx512" || name_ == "amx";
    if (known_peak) {
      peak_ = 2 * k_.lanes * fma_peak(4 * k_.lanes);
      print("fma", "registers only", "GFLOP/s", peak_ * 1e-9);
    }
    for (const int64_t depth : {16, 64, 128, 256, 576}) gemm(depth, k_.rows, k_.vectors);
    for (int v = 1; v < k_.vectors; ++v) gemm(256, k_.rows, v);
    for (int m = 1; m < k_.rows; ++m) gemm(256, m, k_.vectors);
    for (int v = 1; v <= k_.vectors; ++v) gemm_strided(v);
    if (k_.matrix) {
      for (const int64_t depth : {64, 128, 256, 576}) matrix_gemm(depth);
      split();
    }
    for (const int64_t channels : {16, 64}) {
      for (const bool shared : {true, false}) {
        for (const bool masked : {false, true}) fold(shared, masked, channels);
      }
    }
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      stage(dtype, false);
      stage(dtype, true);
      for (const int count : {1, 2, 4, 8}) {
        epilogue(dtype, count, false);
        epilogue(dtype, count, true);
        slots(dtype, count, false);
        slots(dtype, count, true);
      }
      fold_weight(dtype, false);
      fold_weight(dtype, true);
    }
  }

 private:
  void print(const std::string& kernel, const std::string& what, const char* unit, double value) const {
    std::printf("%s,%s,%s,%s,%.4g\n", name_.c_str(), kernel.c_str(), what.c_str(), unit, value);
    std::fflush(stdout);
  }
  void print_flops(const std::string& kernel, const std::string& what, double flops, double time) const {
    if (peak_ > 0) {
      print(kernel, what, "% of peak", 100 * flops / time / peak_);
    } else {
      print(kernel, what, "GFLOP/s", flops / time * 1e-9);
    }
  }
  // Per vector of results.
  void print_cycles(const std::string& kernel, const std::string& what, double elements, double time) const {
    print(kernel, what, "cycles/vector", time * hertz_ / (elements / k_.lanes));
  }
  static std::string storage(DType dtype) {
    return dtype == DType::kFloat32 ? "float32" : dtype == DType::kFloat16 ? "float16" : "bfloat16";
  }

  // A panel of B against 16 panels of packed A.
  void gemm(int64_t depth, int m, int v) {
    const int64_t panels = 16, row = k_.panel();
    std::vector<float> a = numbers(panels * m * depth + 16), b = numbers(depth * row + 16),
                       c(panels * m * row + 16);
    const Segment<float> segment{aligned(b), depth};
    const double time = seconds([&] {
      for (int64_t p = 0; p < panels; ++p) {
        k_.gemm(m, v, aligned(a) + p * m * depth, 1, m, &segment, 1, row, aligned(c) + p * m * row, row,
                false, {});
      }
    });
    const std::string shape = std::to_string(m) + "x" + std::to_string(v);
    print_flops("gemm", shape + " k " + std::to_string(depth),
                2.0 * panels * m * v * k_.lanes * static_cast<double>(depth), time);
  }

  // wgrad's: 36 rows of 232 points against points x filters.
  // The same with a matrix unit, in multiplications of float32.
  void matrix_gemm(int64_t depth) {
    constexpr int kPanels = 4;
    const int64_t tiles = depth / kTileDepth, tile = kTileElements<float>, row = k_.matrix->vectors * kTileRows;
    std::vector<float> a(kPanels * tiles * tile + 16), b(tiles * tile * k_.matrix->vectors + 16),
        c(kPanels * kTileRows * row + 16);
    const std::vector<float> from = numbers(std::max(row * kTileDepth, depth * kTileRows));
    MatrixWork<float> none{};
    for (int64_t k = 0; k < tiles; ++k) {
      k_.matrix->split_points(kTileDepth, k_.matrix->vectors, from.data(), row,
                              aligned(b) + k * tile * k_.matrix->vectors, none);
    }
    const Segment<float> segment{aligned(b), tiles};
    std::vector<MatrixCall<float>> calls;
    for (int p = 0; p < kPanels; ++p) {
      k_.matrix->split_rows(kTileRows, depth, from.data(), 1, kTileRows, aligned(a) + p * tiles * tile);
      calls.push_back({kTileRows, k_.matrix->vectors, aligned(a) + p * tiles * tile, &segment, 1,
                       aligned(c) + p * kTileRows * row, true});
    }
    MatrixWork<float> work{};
    work.b_row = tile * k_.matrix->vectors;
    work.c_row = row;
    k_.matrix->begin();
    const double time = seconds([&] {
      work.call = calls.data();
      work.end = calls.data() + kPanels;
      k_.matrix->finish(work);
    });
    k_.matrix->end();
    print_flops("matrix gemm", "k " + std::to_string(depth),
                2.0 * kPanels * kTileRows * static_cast<double>(row * depth), time);
  }

  void split() {
    const int64_t row = k_.matrix->vectors * kTileRows;
    const std::vector<float> from = numbers(row * kTileDepth);
    std::vector<float> to(kTileElements<float> * k_.matrix->vectors + 16);
    MatrixWork<float> none{};
    const double time = seconds(
        [&] { k_.matrix->split_points(kTileDepth, k_.matrix->vectors, from.data(), row, aligned(to), none); });
    print_cycles("split_points", "k " + std::to_string(kTileDepth), static_cast<double>(row * kTileDepth), time);
  }

  void gemm_strided(int v) {
    const int64_t rows = 36 * 8, points = 224, pitch = 240, width = v * k_.lanes;
    std::vector<float> a = numbers(rows * pitch + 16), b = numbers(points * width + 16), c(rows * width + 16);
    const Segment<float> segment{aligned(b), points};
    const double time = seconds([&] {
      for (int64_t r = 0; r < rows; r += k_.rows) {
        k_.gemm(static_cast<int>(std::min<int64_t>(k_.rows, rows - r)), v, aligned(a) + r * pitch, pitch, 1,
                &segment, 1, width, aligned(c) + r * width, width, true, {});
      }
    });
    print_flops("gemm strided", "v " + std::to_string(v) + " k 224",
                2.0 * static_cast<double>(rows * points * width), time);
  }

  // 3x3, hv, a panel of points in rows of 56: of planes that all results share, or of a plane for each slot.
  void fold(bool shared, bool masked, int64_t columns) {
    const int64_t width = 56, plane = 6 * width + 2 * 48 + 13, planes = shared ? 1 : 4, row = k_.panel();
    std::vector<PlaneSet> sets(4);
    const int terms[] = {4, 2, 2, 1};
    const int64_t taps[4][4] = {
        {0, 2, 2 * width, 2 * width + 2}, {1, 2 * width + 1}, {width, width + 2}, {width + 1}};
    const int64_t coefficients[4][4] = {{0, 4, 6, 8}, {1, 7}, {2, 5}, {3}};
    const int slots[4][4] = {{0, 1, 2, 3}, {0, 2}, {0, 1}, {0}};
    int tap = 0;
    for (int s = 0; s < 4; ++s) {
      sets[s].terms = terms[s];
      sets[s].shared = shared || terms[s] == 1;
      for (int e = 0; e < terms[s]; ++e) {
        sets[s].coefficient[e] = coefficients[s][e];
        sets[s].tap[e] = taps[s][e];
        sets[s].plane[e] = shared ? 0 : slots[s][e] * plane;
        sets[s].mask[e] = tap++;
      }
    }
    std::vector<Move> moves;
    for (int i = 0; i < k_.vectors; ++i) moves.push_back({i * k_.lanes, i * k_.lanes, k_.lanes});
    const std::vector<uint32_t> masks(moves.size() * 9, ~0u);
    std::vector<float> staged = numbers(columns * planes * plane + 64), folded(9 * columns * row + 16);
    const FoldArguments<float> f{sets.data(),
                                 4,
                                 columns,
                                 aligned(staged),
                                 planes * plane,
                                 moves.data(),
                                 static_cast<int>(moves.size()),
                                 masked ? masks.data() : nullptr,
                                 9,
                                 aligned(folded),
                                 row,
                                 {}};
    const std::string what = std::string("hv 3x3 ") + (shared ? "" : "slots ") + (masked ? "masked " : "") +
                             "of " + std::to_string(columns);
    const double elements = static_cast<double>(9 * columns * row), alone = seconds([&] {
                                                                      FoldArguments<float> once = f;
                                                                      k_.fold(once);
                                                                    });
    print_cycles("fold", what, elements, alone);
    if (!masked || !k_.folds_aside) return;
    // Beside a GEMM of as many columns by 16 filters: what that takes longer.
    const int64_t filters = 16;
    std::vector<float> a = numbers(9 * filters * columns + 16), b = numbers(9 * columns * row + 16),
                       c(4 * filters * row + 16);
    const auto multiply = [&](FoldArguments<float>* aside) {
      int64_t first = 0;
      for (int s = 0; s < 4; ++s) {
        const Segment<float> segment{aligned(b) + first * row, terms[s] * columns};
        for (int64_t r = 0; r < filters; r += k_.rows) {
          k_.gemm(k_.rows, k_.vectors, aligned(a) + first * filters + r * segment.k, 1, k_.rows, &segment, 1,
                  row, aligned(c) + (s * filters + r) * row, row, false, {aside, nullptr, 0});
        }
        first += segment.k;
      }
    };
    const double product = seconds([&] { multiply(nullptr); }), both = seconds([&] {
                                                                  FoldArguments<float> once = f;
                                                                  multiply(&once);
                                                                });
    print_cycles("fold aside", what, elements, both - product);
  }

  // Rows of 56 points of 64 channels.
  void stage(DType dtype, bool channels_last) {
    const int64_t columns = 64, n = 56, pitch = 58, plane = 6 * pitch + 2 * 48 + 13;
    std::vector<float> source = numbers(columns * n * 6 + 64), target(columns * plane + 64);
    const char* from = reinterpret_cast<const char*>(aligned(source));
    const double time = seconds([&] {
      for (int64_t r = 0; r < 6; ++r) {
        const int64_t first = r * n * (channels_last ? columns : 1);
        k_.stage(dtype, from + first * (dtype == DType::kFloat32 ? 4 : 2), channels_last ? 1 : 6 * n,
                 channels_last ? columns : 1, columns, n, aligned(target) + r * pitch + 1, plane);
      }
    });
    print_cycles("stage", storage(dtype) + (channels_last ? " channels last" : " planar"),
                 static_cast<double>(6 * columns * n), time);
  }

  // A panel of points of 16 orbits.
  void epilogue(DType dtype, int count, bool channels_last) {
    const int64_t orbits = 16, points = k_.panel(), channels = orbits * count;
    std::vector<float> sums = numbers(channels * points + 16), bias = numbers(channels),
                       output(channels * points + 64);
    EpilogueArguments<float> a{};
    a.slots = count;
    a.orbits = orbits;
    a.accumulators = aligned(sums);
    a.row = points;
    a.slot = orbits * points;
    a.points = points;
    a.orbit_stride = channels_last ? 1 : points;
    a.point_stride = channels_last ? channels : 1;
    for (int e = 0; e < count; ++e) {
      a.output[e] = reinterpret_cast<char*>(aligned(output)) +
                    e * orbits * a.orbit_stride * (dtype == DType::kFloat32 ? 4 : 2);
      a.bias[e] = bias.data() + e * orbits;
    }
    const double time = seconds([&] { k_.epilogue(dtype, a); });
    print_cycles(
        "epilogue",
        std::to_string(count) + " slots " + storage(dtype) + (channels_last ? " channels last" : " planar"),
        static_cast<double>(channels * points), time);
  }

  // 224 points of one vector of orbits.
  void slots(DType dtype, int count, bool channels_last) {
    const int64_t orbits = k_.lanes, points = 224, channels = orbits * count;
    std::vector<float> source = numbers(channels * points + 64), target(channels * points + 64);
    const PointRun run{0, 0, points};
    SlotsArguments<float> a{};
    a.slots = a.classes = count;
    a.orbit_stride = channels_last ? 1 : points;
    a.point_stride = channels_last ? channels : 1;
    a.orbits = orbits;
    a.runs = &run;
    a.run_count = 1;
    a.target = aligned(target);
    a.class_step = orbits * points;
    a.orbit_step = 1;
    a.point_step = orbits;
    for (int e = 0; e < count; ++e) {
      a.slot_of[e] = e;
      a.source[e] = reinterpret_cast<const char*>(aligned(source)) +
                    e * orbits * (channels_last ? 1 : points) * (dtype == DType::kFloat32 ? 4 : 2);
    }
    const double time = seconds([&] { k_.slots(dtype, a); });
    print_cycles(
        "slots",
        std::to_string(count) + " slots " + storage(dtype) + (channels_last ? " channels last" : " planar"),
        static_cast<double>(channels * points), time);
  }

  // A panel of filters of 64 channels, 3x3, hv.
  void fold_weight(DType dtype, bool channels_last) {
    const int64_t columns = 64, taps = 9, rows = k_.rows;
    std::vector<TapSet> sets(4);
    const int terms[] = {4, 2, 2, 1};
    const int64_t offsets[4][4] = {{0, 2, 6, 8}, {1, 7}, {3, 5}, {4}};
    const int64_t coefficients[4][4] = {{0, 4, 6, 8}, {1, 7}, {2, 5}, {3}};
    for (int s = 0; s < 4; ++s) {
      sets[s].terms = terms[s];
      for (int e = 0; e < terms[s]; ++e) {
        sets[s].coefficient[e] = coefficients[s][e];
        sets[s].tap[0][e] = offsets[s][e] * (channels_last ? columns : 1);
      }
    }
    std::vector<float> source = numbers(rows * columns * taps), target(rows * columns * taps + 16);
    const double time = seconds([&] {
      k_.fold_weight(dtype, sets.data(), 4, source.data(), columns * taps, static_cast<int>(rows),
                     channels_last ? 1 : taps, columns, aligned(target), columns * rows);
    });
    print_cycles("fold_weight", storage(dtype) + (channels_last ? " channels last" : " contiguous"),
                 static_cast<double>(rows * columns * taps), time);
  }

  const Kernels<float>& k_;
  std::string name_;
  double hertz_;
  double peak_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> names(argv + 1, argv + argc);
  if (names.empty()) {
    for (const std::string& name : capabilities()) {
      if (name != kReference) names.push_back(name);
    }
  }
  try {
    const double hertz = frequency();
    std::printf("all,clock,dependent multiplications,GHz,%.4g\n", hertz * 1e-9);
    print_prefetch();
    for (const std::string& name : names) Bench(name, hertz).run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  return 0;
}
