// Vectors of one instruction set: loads, stores, conversions, transposes. Only for the files in this folder.
//
// The includer defines SYMCONV_VECTOR_BYTES. Everything stands in an unnamed namespace: two instruction sets'
// versions of one template must never be merged by the linker.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../scalar.h"

#define SYMCONV_INLINE inline __attribute__((always_inline))

namespace symconv::cpu {
namespace {

template <typename T>
struct Simd {
  static constexpr int kLanes = SYMCONV_VECTOR_BYTES / sizeof(T);
  typedef T Vector __attribute__((vector_size(SYMCONV_VECTOR_BYTES)));
};
template <typename T>
using Vector = typename Simd<T>::Vector;
template <typename T>
constexpr int kLanes = Simd<T>::kLanes;

template <typename T>
SYMCONV_INLINE Vector<T> load(const T* p) {
  Vector<T> v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}

template <typename T>
SYMCONV_INLINE void store(T* p, Vector<T> v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

// The first `count` lanes.
template <typename T>
SYMCONV_INLINE void store_partial(T* p, Vector<T> v, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1), v);
  }
#else
  T lanes[kLanes<T>];
  store<T>(lanes, v);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
#endif
}

template <typename T>
SYMCONV_INLINE Vector<T> load_partial(const T* p, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
  } else {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
  }
#else
  T lanes[kLanes<T>] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return load<T>(lanes);
#endif
}

// One element of a tensor, widened to the type that is computed in, and back.
template <typename T, typename Stored>
SYMCONV_INLINE T widen(Stored value) {
  return static_cast<T>(value);
}
template <typename T, typename Stored>
SYMCONV_INLINE Stored narrow(T value) {
  return Stored(value);
}

// A vector of elements of a tensor: same type as computed in, or a half type widened to float32.
template <typename T, typename Stored>
SYMCONV_INLINE Vector<T> load_as(const Stored* p) {
  if constexpr (sizeof(Stored) == sizeof(T)) {
    return load<T>(p);
  } else {
#if defined(__AVX512F__)
    __m256i raw;
    __builtin_memcpy(&raw, p, sizeof(raw));
    if constexpr (std::is_same_v<Stored, Float16>) {
      return _mm512_cvtph_ps(raw);
    } else {
      return (Vector<T>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16);
    }
#elif defined(__F16C__)
    __m128i raw;
    __builtin_memcpy(&raw, p, sizeof(raw));
    if constexpr (std::is_same_v<Stored, Float16>) {
      return _mm256_cvtph_ps(raw);
    } else {
      return (Vector<T>)_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16);
    }
#elif defined(__aarch64__)
    uint16x4_t raw = vld1_u16(reinterpret_cast<const uint16_t*>(p));
    if constexpr (std::is_same_v<Stored, Float16>) {
      return (Vector<T>)vcvt_f32_f16(vreinterpret_f16_u16(raw));
    } else {
      return (Vector<T>)vreinterpretq_f32_u32(vshll_n_u16(raw, 16));
    }
#else
    T lanes[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) lanes[i] = widen<T>(p[i]);
    return load<T>(lanes);
#endif
  }
}

template <typename T, typename Stored>
SYMCONV_INLINE Vector<T> load_as_partial(const Stored* p, int count) {
  if constexpr (sizeof(Stored) == sizeof(T)) {
    return load_partial<T>(p, count);
  } else {
    T lanes[kLanes<T>] = {};
    for (int i = 0; i < count; ++i) lanes[i] = widen<T>(p[i]);
    return load<T>(lanes);
  }
}

// The first `count` lanes, narrowed; NaN stays NaN, ties go to even.
template <typename T, typename Stored>
SYMCONV_INLINE void store_as(Stored* p, Vector<T> v, int count) {
  if constexpr (sizeof(Stored) == sizeof(T)) {
    if (count == kLanes<T>) {
      store<T>(p, v);
    } else {
      store_partial<T>(p, v, count);
    }
  } else {
    T lanes[kLanes<T>];
    store<T>(lanes, v);
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<Stored, Float16>) {
      _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1),
                               _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
      return;
    }
#endif
    for (int i = 0; i < count; ++i) p[i] = narrow<T, Stored>(lanes[i]);
  }
}

// One step of a transpose in place: swaps the off-diagonal blocks of size Step of every 2 Step x 2 Step
// block.
template <typename T, int Step, int... Lane>
SYMCONV_INLINE void transpose_step(Vector<T>* rows, std::integer_sequence<int, Lane...>) {
  constexpr int n = sizeof...(Lane);
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if (i & Step) continue;
    const Vector<T> a = rows[i], b = rows[i + Step];
    rows[i] = __builtin_shufflevector(a, b, (Lane & Step ? n + Lane - Step : Lane)...);
    rows[i + Step] = __builtin_shufflevector(a, b, (Lane & Step ? n + Lane : Lane + Step)...);
  }
}

// Transposes kLanes vectors of kLanes elements in place.
template <typename T>
SYMCONV_INLINE void transpose(Vector<T>* rows) {
  using Lanes = std::make_integer_sequence<int, kLanes<T>>;
  if constexpr (kLanes<T> > 1) transpose_step<T, 1>(rows, Lanes{});
  if constexpr (kLanes<T> > 2) transpose_step<T, 2>(rows, Lanes{});
  if constexpr (kLanes<T> > 4) transpose_step<T, 4>(rows, Lanes{});
  if constexpr (kLanes<T> > 8) transpose_step<T, 8>(rows, Lanes{});
}

}  // namespace
}  // namespace symconv::cpu
