// Elements of tensors as vectors of the type that is computed in: loads that widen, stores that narrow.
#pragma once

#include "../scalar.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

// One element of a tensor, widened to the type that is computed in, and back.
template <typename T, typename Stored>
SYMCONV_INLINE T widen(Stored value) {
  return static_cast<T>(value);
}
template <typename T, typename Stored>
SYMCONV_INLINE Stored narrow(T value) {
  return Stored(value);
}

// ---- 16-bit elements: kLanes<float> of them in a vector of half the bytes, where the processor has one.

#if defined(__AVX512F__)
using Halves = __m256i;
#elif defined(__F16C__)
using Halves = __m128i;
#elif defined(__aarch64__)
using Halves = uint16x4_t;
#endif

#if defined(__AVX512F__) || defined(__F16C__) || defined(__aarch64__)
#define SYMCONV_HAS_HALVES

template <typename Stored>
SYMCONV_INLINE Vector<float> widen_halves(Halves raw) {
  constexpr bool is_float16 = std::is_same_v<Stored, Float16>;
#if defined(__AVX512F__)
  if constexpr (is_float16) return _mm512_cvtph_ps(raw);
  return (Vector<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16);
#elif defined(__F16C__)
  if constexpr (is_float16) return _mm256_cvtph_ps(raw);
  return (Vector<float>)_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16);
#else
  if constexpr (is_float16) return (Vector<float>)vcvt_f32_f16(vreinterpret_f16_u16(raw));
  return (Vector<float>)vshll_n_u16(raw, 16);
#endif
}

// To nearest, ties to even; NaN stays NaN. bfloat16 is the upper half of float32: rounding up is adding to
// the lower half all but one of its half, and that one where the upper half is odd.
template <typename Stored>
SYMCONV_INLINE Halves narrow_halves(Vector<float> v) {
  constexpr bool is_float16 = std::is_same_v<Stored, Float16>;
#if defined(__AVX512F__)
  if constexpr (is_float16) return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512i bits = (__m512i)v;
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  const __m512i upper = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0x001f001d, 0x001b0019, 0x00170015,
                                         0x00130011, 0x000f000d, 0x000b0009, 0x00070005, 0x00030001);
  return _mm512_castsi512_si256(_mm512_permutexvar_epi16(upper, result));
#elif defined(__F16C__)
  if constexpr (is_float16) return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256i bits = (__m256i)v;
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i upper =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff)), 16);
  const __m256i nan = (__m256i)_mm256_cmp_ps(v, v, _CMP_UNORD_Q);
  const __m256i result = _mm256_blendv_epi8(upper, _mm256_set1_epi32(0x7fc0), nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
#else
  if constexpr (is_float16) return vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v));
  const uint32x4_t bits = (uint32x4_t)v;
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint16x4_t upper = vaddhn_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
  const uint16x4_t number = vmovn_u32(vceqq_f32((float32x4_t)v, (float32x4_t)v));
  return vbsl_u16(number, upper, vdup_n_u16(0x7fc0));
#endif
}

// `count` = 0..4 elements of two bytes as the lower bytes of a word, zeros above; and back.
template <typename Stored>
SYMCONV_INLINE uint64_t load_word(const Stored* p, int count) {
  uint64_t word = 0;
  if (count >= 4) {
    __builtin_memcpy(&word, p, 8);
    return word;
  }
  uint32_t pair = 0;
  uint16_t single = 0;
  if (count & 2) __builtin_memcpy(&pair, p, 4);
  if (count & 1) __builtin_memcpy(&single, p + (count & 2), 2);
  return pair | static_cast<uint64_t>(single) << (count & 2 ? 32 : 0);
}
template <typename Stored>
SYMCONV_INLINE void store_word(Stored* p, uint64_t word, int count) {
  if (count >= 4) {
    __builtin_memcpy(p, &word, 8);
    return;
  }
  if (count & 2) {
    __builtin_memcpy(p, &word, 4);
    word >>= 32;
  }
  if (count & 1) __builtin_memcpy(p + (count & 2), &word, 2);
}

// The first `count` elements, zeros in the others; count < kLanes.
template <typename Stored>
SYMCONV_INLINE Halves load_halves(const Stored* p, int count) {
#if defined(__AVX512F__)
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p);
#elif defined(__F16C__)
  const uint64_t low = load_word(p, count);
  return _mm_set_epi64x(count > 4 ? static_cast<int64_t>(load_word(p + 4, count - 4)) : 0,
                        static_cast<int64_t>(low));
#else
  return vcreate_u16(load_word(p, count));
#endif
}

template <typename Stored>
SYMCONV_INLINE void store_halves(Stored* p, Halves raw, int count) {
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1), raw);
#elif defined(__F16C__)
  store_word(p, static_cast<uint64_t>(_mm_cvtsi128_si64(raw)), count);
  if (count > 4) store_word(p + 4, static_cast<uint64_t>(_mm_extract_epi64(raw, 1)), count - 4);
#else
  store_word(p, vget_lane_u64(vreinterpret_u64_u16(raw), 0), count);
#endif
}
#endif

// A vector of elements of a tensor: of the type computed in, or of a half type, widened to float32.
template <typename T, typename Stored>
SYMCONV_INLINE Vector<T> load_as(const Stored* p) {
  if constexpr (sizeof(Stored) == sizeof(T)) {
    return load<T>(p);
  } else {
#if defined(SYMCONV_HAS_HALVES)
    Halves raw;
    __builtin_memcpy(&raw, p, sizeof(raw));
    return widen_halves<Stored>(raw);
#else
    T lanes[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) lanes[i] = widen<T>(p[i]);
    return load<T>(lanes);
#endif
  }
}

// Its first `count` elements only, 0 <= count <= kLanes; zeros in the other lanes.
template <typename T, typename Stored>
SYMCONV_INLINE Vector<T> load_as(const Stored* p, int count) {
  if (count == kLanes<T>) return load_as<T>(p);
  if constexpr (sizeof(Stored) == sizeof(T)) {
    return load_partial<T>(p, count);
  } else {
#if defined(SYMCONV_HAS_HALVES)
    return widen_halves<Stored>(load_halves(p, count));
#else
    T lanes[kLanes<T>] = {};
    for (int i = 0; i < count; ++i) lanes[i] = widen<T>(p[i]);
    return load<T>(lanes);
#endif
  }
}

// Elements p[0], p[2], ... of a tensor, `count` of them; zeros in the other lanes.
template <typename T, typename Stored, int... Lane>
SYMCONV_INLINE Vector<T> load_even(const Stored* p, int count, std::integer_sequence<int, Lane...>) {
  // Two vectors that share an element, so that none is read behind the last.
  constexpr int L = kLanes<T>;
  const int span = 2 * count - 1;
  const Vector<T> low = load_as<T>(p, span < L ? span : L);
  const Vector<T> high = span > L ? load_as<T>(p + L - 1, span - L + 1) : Vector<T>{};
  const Vector<T> y = shuffle<T, (2 * Lane < L ? 2 * Lane : 2 * Lane + 1)...>(low, high);
  return y;
}
template <typename T, typename Stored>
SYMCONV_INLINE Vector<T> load_even(const Stored* p, int count) {
  return load_even<T>(p, count, std::make_integer_sequence<int, kLanes<T>>{});
}

// Its elements in the set of lanes `lanes` only, bit i for lane i; zeros in the other lanes.
template <typename T, typename Stored>
SYMCONV_INLINE Vector<T> load_lanes(const Stored* p, uint32_t lanes) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Stored) == 8) {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p);
  } else if constexpr (sizeof(Stored) == 4) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p);
  } else {
    return widen_halves<Stored>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(lanes), p));
  }
#else
  constexpr uint32_t kAll = (1u << kLanes<T>)-1;
  if ((lanes & kAll) == kAll) return load_as<T>(p);
#if defined(__AVX2__)
  if constexpr (sizeof(Stored) == 4) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_maskload_ps(p, _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(lanes), bit), bit));
  }
#endif
  T values[kLanes<T>] = {};
  for (int i = 0; i < kLanes<T>; ++i) {
    if (lanes >> i & 1) values[i] = widen<T>(p[i]);
  }
  return load<T>(values);
#endif
}

// The first `count` lanes, 0 <= count <= kLanes, narrowed: to nearest, ties to even; NaN stays NaN.
template <typename T, typename Stored>
SYMCONV_INLINE void store_as(Stored* p, Vector<T> v, int count) {
  if constexpr (sizeof(Stored) == sizeof(T)) {
    if (count == kLanes<T>) {
      store<T>(p, v);
    } else {
      store_partial<T>(p, v, count);
    }
  } else {
#if defined(SYMCONV_HAS_HALVES)
    const Halves raw = narrow_halves<Stored>(v);
    if (count == kLanes<T>) {
      __builtin_memcpy(p, &raw, sizeof(raw));
    } else {
      store_halves(p, raw, count);
    }
#else
    T lanes[kLanes<T>];
    store<T>(lanes, v);
    for (int i = 0; i < count; ++i) p[i] = narrow<T, Stored>(lanes[i]);
#endif
  }
}

// Each lane of the lower (0) or upper (1) half of a vector twice.
template <typename T, int Half, int... Lane>
SYMCONV_INLINE Vector<T> spread(Vector<T> v, std::integer_sequence<int, Lane...>) {
  return shuffle<T, (Half * kLanes<T> / 2 + Lane / 2)...>(v, v);
}
template <typename T, int Half>
SYMCONV_INLINE Vector<T> spread(Vector<T> v) {
  return spread<T, Half>(v, std::make_integer_sequence<int, kLanes<T>>{});
}

// The first `count` lanes, 0 <= count <= kLanes, narrowed, to p[0], p[2], ...; what lies between is left
// alone.
template <typename T, typename Stored>
SYMCONV_INLINE void store_even(Stored* p, Vector<T> v, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Stored) == sizeof(T)) {
    constexpr int L = kLanes<T>;
    const auto half = [&](Stored* to, Vector<T> lanes, int n) __attribute__((always_inline)) {
      const uint32_t even = 0x5555u & ((1u << 2 * n) - 1);
      if constexpr (sizeof(T) == 4) {
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>(even), lanes);
      } else {
        _mm512_mask_storeu_pd(to, static_cast<__mmask8>(even), lanes);
      }
    };
    half(p, spread<T, 0>(v), count < L / 2 ? count : L / 2);
    if (count > L / 2) half(p + L, spread<T, 1>(v), count - L / 2);
    return;
  }
#endif
  for (int i = 0; i < count; ++i) p[2 * i] = narrow<T, Stored>(v[i]);
}

// Transposes kLanes rows of kLanes elements of a tensor, row r at row(r), to vectors.
template <typename T, typename Stored, typename Row>
SYMCONV_INLINE void load_transposed_as(const Row& row, Vector<T>* out) {
  if constexpr (sizeof(Stored) == sizeof(T)) {
    load_transposed<T>(row, out);
  } else {
#pragma GCC unroll 16
    for (int r = 0; r < kLanes<T>; ++r) out[r] = load_as<T>(row(r));
    transpose<T>(out);
  }
}

}  // namespace
}  // namespace symconv::cpu
