// Vectors of one instruction set: loads, stores, transposes. Only for the files in this folder.
//
// The includer defines SYMCONV_VECTOR_BYTES. Everything stands in an unnamed namespace: two instruction sets'
// versions of one template must never be merged by the linker.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

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

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

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

// The number of elements in the vector at `i` of n.
template <typename T>
SYMCONV_INLINE int elements_at(int64_t i, int64_t n) {
  return static_cast<int>(n - i < kLanes<T> ? n - i : kLanes<T>);
}

// The same value, in a register: the compiler must not load it again for a second use.
template <typename T>
SYMCONV_INLINE Vector<T> in_register(Vector<T> v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#endif
  return v;
}

// The same pointer, of which the compiler knows nothing.
template <typename T>
SYMCONV_INLINE T* opaque(T* p) {
  asm("" : "+r"(p));
  return p;
}

// Asks for a line of memory, to L2.
SYMCONV_INLINE void ask_for(const void* line) { __builtin_prefetch(line, 0, 2); }

// Lanes of a and b, which count from 0 and from kLanes.
template <typename T, int... Lane>
SYMCONV_INLINE Vector<T> shuffle(Vector<T> a, Vector<T> b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Lane...);
#else
  using Index = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Index Indices __attribute__((vector_size(SYMCONV_VECTOR_BYTES)));
  return __builtin_shuffle(a, b, Indices{Lane...});
#endif
}

// The first `count` lanes, piece by piece: half of a vector, a quarter, and so on.
template <typename T, int Half, int... Lane>
SYMCONV_INLINE void store_pieces(T* p, Vector<T> v, int count, std::integer_sequence<int, Lane...> lanes) {
  if (count & Half) {
    __builtin_memcpy(p, &v, Half * sizeof(T));
    p += Half;
    if constexpr (Half > 1) {
      v = shuffle<T, (Lane + Half < kLanes<T> ? Lane + Half : 0)...>(v, v);
    }
  }
  if constexpr (Half > 1) store_pieces<T, Half / 2>(p, v, count, lanes);
}

// The lower and the upper half of the lanes.
template <typename T>
SYMCONV_INLINE void store_low(T* p, Vector<T> v) {
  __builtin_memcpy(p, &v, sizeof(v) / 2);
}
template <typename T, int... Lane>
SYMCONV_INLINE void store_high(T* p, Vector<T> v, std::integer_sequence<int, Lane...>) {
  store_low<T>(p, shuffle<T, (Lane + kLanes<T> / 2) % kLanes<T>...>(v, v));
}
template <typename T>
SYMCONV_INLINE void store_high(T* p, Vector<T> v) {
  store_high<T>(p, v, std::make_integer_sequence<int, kLanes<T>>{});
}

// The first `count` lanes; count < kLanes.
template <typename T>
SYMCONV_INLINE void store_partial(T* p, Vector<T> v, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1), v);
  }
#else
  store_pieces<T, kLanes<T> / 2>(p, v, count, std::make_integer_sequence<int, kLanes<T>>{});
#endif
}

// The first `count` lanes, zeros in the others; count < kLanes.
template <typename T>
SYMCONV_INLINE Vector<T> load_partial(const T* p, int count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
  } else {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane));
  } else {
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    return _mm256_maskload_pd(p, _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane));
  }
#else
  T lanes[kLanes<T>] = {};
  for (int i = 0; i < count; ++i) lanes[i] = p[i];
  return load<T>(lanes);
#endif
}

// A set of lanes, bit l for lane l. Whether memory of the others is left alone:
#if defined(__AVX512F__) || defined(__AVX2__)
constexpr bool kMaskedReads = true;
#else
constexpr bool kMaskedReads = false;
#endif

// Whether masks have registers of their own.
#if defined(__AVX512F__)
constexpr bool kMaskRegisters = true;
#else
constexpr bool kMaskRegisters = false;
#endif

// All lanes.
template <typename T>
struct EveryLane {
  SYMCONV_INLINE Vector<T> load(const T* p) const { return symconv::cpu::load<T>(p); }
  // v + x and v - x of the vector x at p.
  SYMCONV_INLINE Vector<T> add(Vector<T> v, const T* p) const { return v + load(p); }
  SYMCONV_INLINE Vector<T> subtract(Vector<T> v, const T* p) const { return v - load(p); }
  SYMCONV_INLINE void add_and_subtract(Vector<T> v, const T* p, Vector<T>& sum, Vector<T>& difference) const {
    const Vector<T> x = in_register<T>(load(p));
    sum = v + x;
    difference = v - x;
  }
};

// Those of a set; the same, with zeros in the others.
template <typename T>
class LaneMask {
 public:
#if defined(__AVX512F__)
  explicit LaneMask(uint32_t bits) : mask_(static_cast<decltype(mask_)>(bits)) {}
  SYMCONV_INLINE Vector<T> load(const T* p) const {
    if constexpr (sizeof(T) == 4) {
      return _mm512_maskz_loadu_ps(mask_, p);
    } else {
      return _mm512_maskz_loadu_pd(mask_, p);
    }
  }
  // Not a load and an addition: the mask would take a second instruction of the units that add and multiply.
  // The intrinsics leave it to the compiler whether lanes outside the mask are read.
  SYMCONV_INLINE Vector<T> add(Vector<T> v, const T* p) const {
    if constexpr (sizeof(T) == 4) {
      asm("vaddps %2, %0, %0%{%1%}" : "+v"(v) : "Yk"(mask_), "m"(at(p)));
    } else {
      asm("vaddpd %2, %0, %0%{%1%}" : "+v"(v) : "Yk"(mask_), "m"(at(p)));
    }
    return v;
  }
  SYMCONV_INLINE Vector<T> subtract(Vector<T> v, const T* p) const {
    if constexpr (sizeof(T) == 4) {
      asm("vsubps %2, %0, %0%{%1%}" : "+v"(v) : "Yk"(mask_), "m"(at(p)));
    } else {
      asm("vsubpd %2, %0, %0%{%1%}" : "+v"(v) : "Yk"(mask_), "m"(at(p)));
    }
    return v;
  }
  SYMCONV_INLINE void add_and_subtract(Vector<T> v, const T* p, Vector<T>& sum, Vector<T>& difference) const {
    sum = add(v, p);
    difference = subtract(v, p);
  }

 private:
  struct Bytes {
    char bytes[SYMCONV_VECTOR_BYTES];
  };
  static const Bytes& at(const T* p) { return *reinterpret_cast<const Bytes*>(p); }

  std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8> mask_;
#else
  SYMCONV_INLINE explicit LaneMask(uint32_t bits) {
    Mask bit;
    for (int l = 0; l < kLanes<T>; ++l) bit[l] = Lane{1} << l;
    mask_ = (static_cast<Lane>(bits) & bit) != 0;
  }
  SYMCONV_INLINE Vector<T> load(const T* p) const {
#if defined(__AVX2__)
    if constexpr (sizeof(T) == 4) {
      return _mm256_maskload_ps(p, (__m256i)mask_);
    } else {
      return _mm256_maskload_pd(p, (__m256i)mask_);
    }
#else
    return (Vector<T>)((Mask)symconv::cpu::load<T>(p) & mask_);
#endif
  }
  SYMCONV_INLINE Vector<T> add(Vector<T> v, const T* p) const { return v + load(p); }
  SYMCONV_INLINE Vector<T> subtract(Vector<T> v, const T* p) const { return v - load(p); }
  SYMCONV_INLINE void add_and_subtract(Vector<T> v, const T* p, Vector<T>& sum, Vector<T>& difference) const {
    const Vector<T> x = load(p);
    sum = v + x;
    difference = v - x;
  }

 private:
  using Lane = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef Lane Mask __attribute__((vector_size(SYMCONV_VECTOR_BYTES)));
  Mask mask_;
#endif
};

// Elements in 16 bytes, a piece of a vector, within which shuffles are cheap.
template <typename T>
constexpr int kPiece = 16 / sizeof(T);

// Of every piece of a and b elements from First on, alternately: Run of a, Run of b.
template <typename T, int First, int Run, int... Lane>
SYMCONV_INLINE Vector<T> interleave_pieces(Vector<T> a, Vector<T> b, std::integer_sequence<int, Lane...>) {
  constexpr int P = kPiece<T>, L = kLanes<T>;
  return shuffle<T, (Lane / P * P + First + Lane % P / (2 * Run) * Run + Lane % Run +
                     (Lane % P / Run % 2 ? L : 0))...>(a, b);
}
template <typename T, int First, int Run>
SYMCONV_INLINE Vector<T> interleave_pieces(Vector<T> a, Vector<T> b) {
  return interleave_pieces<T, First, Run>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Transposes kPiece vectors in place, piece by piece.
template <typename T>
SYMCONV_INLINE void transpose_pieces(Vector<T>* rows) {
  if constexpr (kPiece<T> == 2) {
    const Vector<T> a = rows[0], b = rows[1];
    rows[0] = interleave_pieces<T, 0, 1>(a, b);
    rows[1] = interleave_pieces<T, 1, 1>(a, b);
  } else {
    const Vector<T> a = interleave_pieces<T, 0, 1>(rows[0], rows[1]),
                    b = interleave_pieces<T, 2, 1>(rows[0], rows[1]),
                    c = interleave_pieces<T, 0, 1>(rows[2], rows[3]),
                    d = interleave_pieces<T, 2, 1>(rows[2], rows[3]);
    rows[0] = interleave_pieces<T, 0, 2>(a, c);
    rows[1] = interleave_pieces<T, 2, 2>(a, c);
    rows[2] = interleave_pieces<T, 0, 2>(b, d);
    rows[3] = interleave_pieces<T, 2, 2>(b, d);
  }
}

// Of the pieces of a and b, counted through, every other one: from First = 0 or 1 on.
template <typename T, int First, int... Lane>
SYMCONV_INLINE Vector<T> every_other_piece(Vector<T> a, Vector<T> b, std::integer_sequence<int, Lane...>) {
  constexpr int P = kPiece<T>;
  return shuffle<T, ((2 * (Lane / P) + First) * P + Lane % P)...>(a, b);
}
template <typename T, int First>
SYMCONV_INLINE Vector<T> every_other_piece(Vector<T> a, Vector<T> b) {
  return every_other_piece<T, First>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Transposes kLanes vectors of kLanes elements in place.
template <typename T>
SYMCONV_INLINE void transpose(Vector<T>* rows) {
  constexpr int P = kPiece<T>, L = kLanes<T>;
  static_assert(L <= 4 * P, "vectors of more than four pieces");
#pragma GCC unroll 16
  for (int i = 0; i < L; i += P) transpose_pieces<T>(rows + i);
  if constexpr (L == P) return;
#pragma GCC unroll 4
  for (int i = 0; i < P; ++i) {
    const Vector<T> a = rows[i], b = rows[P + i], even = every_other_piece<T, 0>(a, b),
                    odd = every_other_piece<T, 1>(a, b);
    if constexpr (L == 2 * P) {
      rows[i] = even;
      rows[P + i] = odd;
    } else {
      const Vector<T> c = rows[2 * P + i], d = rows[3 * P + i], even2 = every_other_piece<T, 0>(c, d),
                      odd2 = every_other_piece<T, 1>(c, d);
      rows[i] = every_other_piece<T, 0>(even, even2);
      rows[P + i] = every_other_piece<T, 0>(odd, odd2);
      rows[2 * P + i] = every_other_piece<T, 1>(even, even2);
      rows[3 * P + i] = every_other_piece<T, 1>(odd, odd2);
    }
  }
}

// A vector whose lower half is at `low` and whose upper half at `high`.
template <typename T>
SYMCONV_INLINE Vector<T> load_halves_of(const T* low, const T* high) {
#if defined(__AVX512F__)
  const auto* l = reinterpret_cast<const double*>(low);
  const auto* h = reinterpret_cast<const double*>(high);
  return (Vector<T>)_mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(l)), _mm256_loadu_pd(h), 1);
#elif defined(__AVX2__)
  const auto* l = reinterpret_cast<const float*>(low);
  const auto* h = reinterpret_cast<const float*>(high);
  return (Vector<T>)_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(l)), _mm_loadu_ps(h), 1);
#else
  Vector<T> v;
  __builtin_memcpy(&v, low, sizeof(v) / 2);
  __builtin_memcpy(reinterpret_cast<char*>(&v) + sizeof(v) / 2, high, sizeof(v) / 2);
  return v;
#endif
}

// Of two vectors whose halves have two pieces each the first pieces of every half, alternately, or the
// second.
template <typename T, int Second, int... Lane>
SYMCONV_INLINE Vector<T> pair_pieces(Vector<T> a, Vector<T> b, std::integer_sequence<int, Lane...>) {
  constexpr int P = kPiece<T>, L = kLanes<T>, Half = L / 2;
  return shuffle<T, (Lane / Half * Half + Second * P + Lane % P + (Lane % Half < P ? 0 : L))...>(a, b);
}
template <typename T, int Second>
SYMCONV_INLINE Vector<T> pair_pieces(Vector<T> a, Vector<T> b) {
  return pair_pieces<T, Second>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
}

// Transposes kLanes / 2 vectors in place, half by half: what was element i of the halves becomes vector i.
template <typename T>
SYMCONV_INLINE void transpose_halves(Vector<T>* rows) {
  constexpr int P = kPiece<T>, Half = kLanes<T> / 2;
  if constexpr (Half == P / 2 && Half > 1) {
    const Vector<T> a = rows[0], b = rows[1];
    rows[0] = shuffle<T, 0, 4, 2, 6>(a, b);
    rows[1] = shuffle<T, 1, 5, 3, 7>(a, b);
  }
#pragma GCC unroll 16
  for (int r = 0; r + P <= Half; r += P) transpose_pieces<T>(rows + r);
  if constexpr (Half == 2 * P) {
#pragma GCC unroll 4
    for (int r = 0; r < P; ++r) {
      const Vector<T> a = rows[r], b = rows[P + r];
      rows[r] = pair_pieces<T, 0>(a, b);
      rows[P + r] = pair_pieces<T, 1>(a, b);
    }
  }
}

// Transposes kLanes rows of kLanes elements from memory, row r at row(r), to vectors. Where vectors have
// several pieces, loading halves does a part of the work, on units that are free.
template <typename T, typename Row>
SYMCONV_INLINE void load_transposed(const Row& row, Vector<T>* out) {
  constexpr int P = kPiece<T>, L = kLanes<T>, Half = L / 2;
  if constexpr (L == P) {
#pragma GCC unroll 4
    for (int r = 0; r < L; ++r) out[r] = load<T>(row(r));
    transpose<T>(out);
  } else {
#pragma GCC unroll 2
    for (int c = 0; c < L; c += Half) {  // columns
#pragma GCC unroll 4
      for (int r = 0; r < L; r += 2 * P) {
        Vector<T>* const rows = out + c + r / 2;
#pragma GCC unroll 4
        for (int i = 0; i < P; ++i) rows[i] = load_halves_of<T>(row(r + i) + c, row(r + P + i) + c);
        transpose_pieces<T>(rows);
      }
      if constexpr (Half == 2 * P) {
#pragma GCC unroll 4
        for (int i = 0; i < P; ++i) {
          const Vector<T> a = out[c + i], b = out[c + P + i];
          out[c + i] = every_other_piece<T, 0>(a, b);
          out[c + P + i] = every_other_piece<T, 1>(a, b);
        }
      }
    }
  }
}

}  // namespace
}  // namespace symconv::cpu
