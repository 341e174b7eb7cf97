// Conversions between float32 and the 16-bit types, on every way that a value takes through the kernels,
// against their definition in arithmetic.
#include <cmath>

#include "checks.h"
#include "guarded.h"

namespace symconv::test {
namespace {

// A binary format of 16 bits: bits of the significand with the hidden one, exponents of normal numbers.
struct Format {
  int precision, min_exponent, max_exponent;

  double decode(uint16_t u) const {
    const int stored = precision - 1, mantissa = u & ((1 << stored) - 1);
    const int exponent = (u & 0x7fff) >> stored, bias = 1 - min_exponent;
    const double sign = u & 0x8000 ? -1.0 : 1.0;
    if (exponent > max_exponent + bias) return mantissa ? std::nan("") : sign * HUGE_VAL;
    if (exponent == 0) return sign * std::ldexp(mantissa, min_exponent - stored);
    return sign * std::ldexp(mantissa + (1 << stored), exponent - bias - stored);
  }

  // Round to nearest, ties to even; x is not NaN.
  uint16_t encode(double x) const {
    const int stored = precision - 1;
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    const uint16_t infinity = static_cast<uint16_t>((max_exponent - min_exponent + 2) << stored);
    x = std::fabs(x);
    if (x == 0) return sign;
    if (std::isinf(x)) return sign | infinity;
    const int exponent = std::max(std::ilogb(x), min_exponent);
    const double units =
        std::nearbyint(std::ldexp(x, stored - exponent));  // may carry into the next exponent
    const int64_t bits =
        (static_cast<int64_t>(exponent - min_exponent) << stored) + static_cast<int64_t>(units);
    return sign | static_cast<uint16_t>(bits < infinity ? bits : infinity);
  }
};

template <typename Stored>
constexpr Format kFormat = std::is_same_v<Stored, Float16> ? Format{11, -14, 15} : Format{8, -126, 127};

constexpr int64_t kPatterns = 65536;

bool same(float a, float b) {
  return std::isnan(a) ? std::isnan(b) : bits::from_float(a) == bits::from_float(b);
}

}  // namespace

template <typename Stored>
void check_widening(const Kernels<float>& kernels, Report& report) {
  const Guarded<Stored> source(kPatterns, Side::kEnd);
  for (int64_t u = 0; u < kPatterns; ++u) source[u].u = static_cast<uint16_t>(u);
  source.freeze();
  const DType dtype = kDType<Stored>;
  std::vector<float> expected;
  for (int64_t u = 0; u < kPatterns; ++u) {
    expected.push_back(static_cast<float>(kFormat<Stored>.decode(static_cast<uint16_t>(u))));
  }
  const auto compare = [&](const char* way, const std::vector<float>& got) {
    report.begin("%s to float32 by %s", dtype == DType::kFloat16 ? "float16" : "bfloat16", way);
    for (int64_t u = 0; u < kPatterns; ++u) {
      report.check(same(got[u], expected[u]), "0x%04x gives %a, not %a", static_cast<unsigned>(u), got[u],
                   expected[u]);
    }
  };
  std::vector<float> got(kPatterns + 64);
  kernels.stage(dtype, source.data(), 0, 1, 1, kPatterns, got.data(), 0);
  compare("stage of a plane", got);
  kernels.stage(dtype, source.data(), 1, 0, kPatterns, 1, got.data(), 1);
  compare("stage of single points", got);
  for (int64_t i = 0; i < kPatterns; i += 3) {  // remainders of vectors
    const int64_t n = std::min<int64_t>(3, kPatterns - i);
    kernels.stage(dtype, source.data() + i, 3, 1, 1, n, got.data() + i, n);
  }
  compare("stage of three points", got);
  {  // transposed, in and out again
    constexpr int64_t kColumns = 64, kPoints = kPatterns / kColumns;
    std::vector<float> planes(kColumns * (kPoints + 64));
    kernels.stage(dtype, source.data(), 1, kColumns, kColumns, kPoints, planes.data(), kPoints + 64);
    for (int64_t u = 0; u < kPatterns; ++u) got[u] = planes[u % kColumns * (kPoints + 64) + u / kColumns];
    compare("stage of channels last", got);
  }
  SlotsArguments<float> slots{};
  slots.slots = slots.classes = slots.run_count = 1;
  slots.source[0] = source.data();
  slots.target = got.data();
  slots.orbit_stride = slots.orbit_step = 1;
  slots.point_stride = slots.point_step = slots.orbits = 1024;
  const PointRun all{0, 0, kPatterns / 1024}, two{0, 0, 2};
  slots.runs = &all;
  kernels.slots(dtype, slots);
  compare("slots of channels last", got);
  slots.orbit_stride = 64;
  slots.point_stride = 1;
  slots.orbits = kPatterns / 64;
  slots.point_step = slots.orbits;
  const PointRun row{0, 0, 64};
  slots.runs = &row;
  std::vector<float> transposed(kPatterns + 64);
  slots.target = transposed.data();
  kernels.slots(dtype, slots);
  for (int64_t u = 0; u < kPatterns; ++u) got[u] = transposed[u % 64 * slots.orbits + u / 64];
  compare("slots of planes", got);
  slots.point_step = 1;
  slots.orbit_step = 64;
  slots.target = got.data();
  kernels.slots(dtype, slots);
  compare("slots of planes to planes", got);
  report.begin("%s to float32 by slots of two orbits and points",
               dtype == DType::kFloat16 ? "float16" : "bfloat16");
  slots.orbit_stride = slots.orbits = slots.point_step = 2;
  slots.orbit_step = 1;
  slots.runs = &two;
  for (int64_t i = 0; i + 4 <= kPatterns; i += 4) {
    slots.source[0] = source.data() + i;
    kernels.slots(dtype, slots);
    const float values[4] = {got[0], got[2], got[1], got[3]};
    for (int64_t l = 0; l < 4; ++l) {
      report.check(same(values[l], expected[i + l]), "0x%04x", static_cast<unsigned>(i + l));
    }
  }
  TapSet set{};
  set.terms = 1;
  for (int64_t i = 0; i < kPatterns; i += kernels.rows) {
    kernels.fold_weight(dtype, &set, 1, source.data() + i, 1,
                        static_cast<int>(std::min<int64_t>(kernels.rows, kPatterns - i)), 0, 1,
                        got.data() + i, 0);
  }
  compare("fold_weight", got);
}

template <typename Stored>
void check_narrowing(const Kernels<float>& kernels, Random& random, Report& report) {
  std::vector<float> values;
  for (int64_t u = 0; u + 1 < kPatterns; ++u) {
    const double low = kFormat<Stored>.decode(static_cast<uint16_t>(u));
    const double high = kFormat<Stored>.decode(static_cast<uint16_t>(u + 1));
    if (std::isnan(low)) continue;
    values.push_back(static_cast<float>(low));
    if (!std::isfinite(low) || !std::isfinite(high)) continue;
    const float tie = static_cast<float>((low + high) / 2);  // exact
    for (const float value : {tie, std::nextafter(tie, -HUGE_VALF), std::nextafter(tie, HUGE_VALF)}) {
      values.push_back(value);
    }
  }
  for (const float edge : {65504.0f, 65519.996f, 65520.0f, 65536.0f, 3.3895314e38f, 3.3961775e38f,
                           3.4028235e38f, 1e-45f, 1.17549435e-38f, 2.9802322e-8f, 2.9802326e-8f}) {
    values.push_back(edge);
    values.push_back(-edge);
  }
  for (const uint32_t nan : {0x7f800001u, 0xff800001u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu, 0x7f808000u}) {
    values.push_back(bits::to_float(nan));
  }
  for (int i = 0; i < 100000; ++i) {
    values.push_back(bits::to_float(static_cast<uint32_t>(random.between(0, 0xffffffff))));
  }
  values.resize(values.size() / 256 * 256 + 256, 0.0f);

  const int64_t count = static_cast<int64_t>(values.size());
  std::vector<Stored> got(count);
  std::vector<uint16_t> expected;
  for (const float value : values) {
    expected.push_back(std::isnan(value) ? uint16_t{0} : kFormat<Stored>.encode(value));
  }
  const auto compare = [&](const char* way) {
    report.begin("float32 to %s by %s", kDType<Stored> == DType::kFloat16 ? "float16" : "bfloat16", way);
    for (int64_t i = 0; i < count; ++i) {
      const bool good =
          std::isnan(values[i]) ? std::isnan(kFormat<Stored>.decode(got[i].u)) : got[i].u == expected[i];
      report.check(good, "%a gives 0x%04x", values[i], got[i].u);
    }
    got.assign(count, Stored());
  };
  EpilogueArguments<float> a{};
  a.slots = 1;
  // `orbits` rows of `points` values at a time; channel and point strides of the output.
  const auto narrow = [&](int64_t orbits, int64_t points, int64_t orbit_stride, int64_t point_stride) {
    a.orbits = orbits;
    a.points = points;
    a.row = points;
    a.orbit_stride = orbit_stride;
    a.point_stride = point_stride;
    std::vector<Stored> block(orbits * points);
    for (int64_t i = 0; i + orbits * points <= count; i += orbits * points) {
      a.accumulators = values.data() + i;
      a.output[0] = block.data();
      kernels.epilogue(kDType<Stored>, a);
      for (int64_t o = 0; o < orbits; ++o) {
        for (int64_t p = 0; p < points; ++p) {
          got[i + o * points + p] = block[o * orbit_stride + p * point_stride];
        }
      }
    }
  };
  const int64_t panel = kernels.lanes;
  narrow(256 / panel, panel, panel, 1);
  compare("planar epilogue");
  narrow(128, 2, 2, 1);
  compare("planar epilogue of two points");
  narrow(16, 16, 1, 16);
  compare("channels-last epilogue");
  narrow(2, 2, 1, 2);
  compare("channels-last epilogue of two orbits");
}

#define SYMCONV_INSTANTIATE(Stored)                                     \
  template void check_widening<Stored>(const Kernels<float>&, Report&); \
  template void check_narrowing<Stored>(const Kernels<float>&, Random&, Report&);
SYMCONV_INSTANTIATE(Float16)
SYMCONV_INSTANTIATE(BFloat16)

}  // namespace symconv::test
