// AVX-512 with AMX: tiles of 16 rows of 64 bytes, and a unit that multiplies bfloat16 and sums in float32.
//
// A float32 is the sum of three bfloat16: h has its upper 8 bits, m the next, l the rest. Of the products of
// two the six largest are summed, the smallest of a tile first. What is left out, ml, lm and ll, is below
// 2^-22 of the product, since A is rounded and only B cut off; it is of either sign, and in the mean square
// less than rounding the product to a float32 would leave. Numbers below 2^-126, parts too, count as zero;
// the parts of an infinity are NaN.
#include <immintrin.h>

#define SYMCONV_VECTOR_BYTES 64
#include "fold_impl.h"
#include "isa.h"
#include "simd.h"

namespace symconv::cpu {
namespace {

constexpr int kVectors = 2;                            // sums in more registers are not faster
constexpr int64_t kPart = kTileRows * kTileDepth * 2;  // bytes
constexpr int64_t kTile = 3 * kPart;

// What configures the registers: all of them 16 rows of 64 bytes.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr Configuration kConfiguration;

void begin() { _tile_loadconfig(&kConfiguration); }
void end() { _tile_release(); }

// Three registers of bfloat16 from two vectors, of which the first is in the lower half.
struct Parts {
  __m512i part[3];
};

SYMCONV_INLINE __m512 widened_low(__m512i v) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(v)), 16);
}
SYMCONV_INLINE __m512 widened_high(__m512i v) {
  return (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(v, 1)), 16);
}

// One half after the other.
SYMCONV_INLINE Parts split(__m512 low, __m512 high) {
  Parts p;
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    p.part[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    if (i == 2) break;
    low -= widened_low(p.part[i]);
    high -= widened_high(p.part[i]);
  }
  return p;
}

// In turns: lane i of `even`, lane i of `odd`. Cut off instead of rounded, which is as exact and takes half
// of the time.
SYMCONV_INLINE Parts cut_in_turns(__m512 even, __m512 odd) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  Parts p;
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) {
    p.part[i] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32((__m512i)even, 16), (__m512i)odd);
    if (i == 2) break;
    even -= (__m512)_mm512_and_si512((__m512i)even, upper);
    odd -= (__m512)_mm512_and_si512((__m512i)odd, upper);
  }
  return p;
}

SYMCONV_INLINE void put(char* to, const Parts& p) {
#pragma GCC unroll 3
  for (int i = 0; i < 3; ++i) _mm512_store_si512(to + i * kPart, p.part[i]);
}

void split_rows(int m, int64_t k, const float* a, int64_t a_row, int64_t a_col, float* tiles) {
  char* tile = reinterpret_cast<char*>(tiles);
  for (int64_t j = 0; j < k; j += kTileDepth, tile += kTile) {
    Vector<float> rows[2][kTileRows];
    const bool whole = m == kTileRows && k - j >= kTileDepth;
    if (whole && a_col == 1) {
      for (int i = 0; i < kTileRows; ++i) {
        const float* from = a + i * a_row + j;
        put(tile + 64 * i, split(_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16)));
      }
      continue;
    }
    for (int half = 0; half < 2; ++half) {
      const int64_t first = j + half * 16;
      const float* from = a + first * a_col;
      if (whole) {
        load_transposed<float>([&](int r) { return from + r * a_col; }, rows[half]);
        continue;
      }
      const int left = static_cast<int>(k - first < 0 ? 0 : k - first < 16 ? k - first : 16);
      const auto load_some = [](const float* p, int count) {
        return count == 16 ? load<float>(p) : load_partial<float>(p, count);
      };
      if (a_col == 1) {
        for (int i = 0; i < kTileRows; ++i) {
          rows[half][i] = i < m && left > 0 ? load_some(from + i * a_row, left) : Vector<float>{};
        }
      } else {
        for (int i = 0; i < 16; ++i) {
          rows[half][i] = i < left ? load_some(from + i * a_col, m) : Vector<float>{};
        }
        transpose<float>(rows[half]);
      }
    }
    for (int i = 0; i < kTileRows; ++i) put(tile + 64 * i, split((__m512)rows[0][i], (__m512)rows[1][i]));
  }
}

// The unit's registers by number, for templates. (The compiler's own intrinsics take literals only.)
template <int Register>
SYMCONV_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(Register));
}
template <int Register>
SYMCONV_INLINE void tile_load(const void* from, int64_t row = kTileRows) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(row * 4), "i"(Register) : "memory");
}
template <int Register>
SYMCONV_INLINE void tile_store(float* to, int64_t row) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(row * 4), "i"(Register) : "memory");
}
// Sums are in the first registers, one for each vector, parts of A in 4 to 6, of B in 7.
template <int Vector, int PartOfA>
SYMCONV_INLINE void add_product() {
  asm volatile("tdpbf16ps %%tmm7, %%tmm%c1, %%tmm%c0" : : "i"(Vector), "i"(4 + PartOfA));
}

// The six products of A with a tile of B, the smallest first.
template <int Vector>
SYMCONV_INLINE void add_products(const char* b) {
  tile_load<7>(b + 2 * kPart);
  add_product<Vector, 0>();
  tile_load<7>(b + kPart);
  add_product<Vector, 1>();
  add_product<Vector, 0>();
  tile_load<7>(b);
  add_product<Vector, 2>();
  add_product<Vector, 1>();
  add_product<Vector, 0>();
}

template <int... V>
SYMCONV_INLINE void store_sums(const MatrixCall<float>& call, int64_t c_row,
                               std::integer_sequence<int, V...>) {
  if (!call.accumulate && call.m == kTileRows) {
    (tile_store<V>(call.c + V * kTileRows, c_row), ...);
    return;
  }
  alignas(64) float sums[sizeof...(V)][kTileRows][kTileRows];
  (tile_store<V>(sums[V][0], kTileRows), ...);
  float* c = call.c;
  for (int i = 0; i < call.m; ++i, c += c_row) {
    const auto put = [&](float* to, const float* from) {
      store<float>(to, call.accumulate ? load<float>(to) + load<float>(from) : load<float>(from));
    };
    (put(c + V * kTileRows, sums[V][i]), ...);
  }
}

// The products of the next tile of A with its next vector: more at once would keep what is done on the side
// from being done meanwhile.
template <int... V>
SYMCONV_INLINE void multiply_vector(MatrixWork<float>& w, std::integer_sequence<int, V...> vectors) {
  constexpr int kLinesAtOnce = 2;
  const MatrixCall<float>& call = *w.call;
  const Segment<float>& segment = call.segments[w.segment];
  const char* b = reinterpret_cast<const char*>(segment.b + w.k * w.b_row);
  for (int i = 0; i < kLinesAtOnce && w.line_count > 0; ++i, --w.line_count) ask_for(w.lines->next());
  if (w.vector == 0) {
    if (w.tile == 0) (tile_zero<V>(), ...);
    const char* a = reinterpret_cast<const char*>(call.a) + w.tile * kTile;
    tile_load<4>(a);
    tile_load<5>(a + kPart);
    tile_load<6>(a + 2 * kPart);
    add_products<0>(b);
  } else {
    add_products<1>(b + kTile);
  }
  if (++w.vector < call.vectors) return;
  w.vector = 0;
  ++w.tile;
  if (++w.k < segment.k) return;
  w.k = 0;
  if (++w.segment < call.count) return;
  w.segment = 0;
  w.tile = 0;
  store_sums(call, w.c_row, vectors);
  ++w.call;
}

template <int V>
__attribute__((noinline)) void multiply_vector(MatrixWork<float>& w) {
  multiply_vector(w, std::make_integer_sequence<int, V>{});
}

void multiply_vector(MatrixWork<float>& w) {
  if (w.call == w.end) return;
  w.call->vectors == kVectors ? multiply_vector<kVectors>(w) : multiply_vector<1>(w);
}

void finish(MatrixWork<float>& w) {
  while (w.call != w.end) multiply_vector(w);
  for (; w.line_count > 0; --w.line_count) ask_for(w.lines->next());
}

// What is done on the side, and how much of the other work until it goes on.
class Aside {
 public:
  explicit Aside(MatrixWork<float>& work) : work_(work), left_(work.interval) {}
  // `vectors` have been computed.
  SYMCONV_INLINE void operator()(int vectors = 1) {
    left_ -= vectors;
    if (left_ <= 0) {
      left_ += work_.interval;
      multiply_vector(work_);
    }
  }

 private:
  MatrixWork<float>& work_;
  int64_t left_;
};

void split_points(int k, int vectors, const float* rows, int64_t row, float* tiles, MatrixWork<float>& work) {
  constexpr int kCost = 3;  // of two vectors
  Aside aside(work);
  for (int v = 0; v < vectors; ++v) {
    char* tile = reinterpret_cast<char*>(tiles) + v * kTile;
    const float* from = rows + v * 16;
    int i = 0;
    for (; i + 1 < k; i += 2, from += 2 * row) {
      put(tile + 32 * i, cut_in_turns(_mm512_loadu_ps(from), _mm512_loadu_ps(from + row)));
      aside(kCost);
    }
    if (i < k) {
      put(tile + 32 * i, cut_in_turns(_mm512_loadu_ps(from), _mm512_setzero_ps()));
      i += 2;
    }
    for (; i < kTileDepth; i += 2) put(tile + 32 * i, Parts{});
  }
}

void fold_aside(FoldArguments<float>& f, MatrixWork<float>& work) {
  Aside aside(work);
  fold(f, aside);
}

constexpr MatrixKernels<float> kMatrix = {kVectors, begin, end, split_rows, split_points, fold_aside, finish};

}  // namespace

namespace isa {
const Kernels<float> amx_float = with_matrix("amx", avx512_float, &kMatrix);
const Kernels<double> amx_double = with_matrix<double>("amx", avx512_double, nullptr);
}  // namespace isa

}  // namespace symconv::cpu
