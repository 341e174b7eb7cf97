// The plain twin of a matrix unit (MatrixKernels of kernels.h), in ordinary loops, with the plain twin of all
// else. It does nothing on the side, and is there to test the loops around a unit on processors that have
// none.
#include "../scalar.h"
#include "isa.h"

namespace symconv::cpu {
namespace {

constexpr int kPart = kTileRows * kTileDepth;  // numbers

// The parts of x, to element `at` of a tile.
void put_parts(BFloat16* tile, int at, float x) {
  for (int part = 0; part < 3; ++part) {
    tile[part * kPart + at] = BFloat16(x);
    x -= static_cast<float>(tile[part * kPart + at]);
  }
}

void split_rows(int m, int64_t k, const float* a, int64_t a_row, int64_t a_col, float* tiles) {
  BFloat16* tile = reinterpret_cast<BFloat16*>(tiles);
  for (int64_t first = 0; first < k; first += kTileDepth, tile += 3 * kPart) {
    for (int i = 0; i < kTileRows; ++i) {
      for (int j = 0; j < kTileDepth; ++j) {
        const bool inside = i < m && first + j < k;
        put_parts(tile, i * kTileDepth + j, inside ? a[i * a_row + (first + j) * a_col] : 0.0f);
      }
    }
  }
}

// Of B, two k take turns.
int place_in_b(int k, int point) { return k / 2 * 2 * kTileRows + 2 * point + k % 2; }

void split_points(int k, int vectors, const float* rows, int64_t row, float* tiles, MatrixWork<float>&) {
  BFloat16* tile = reinterpret_cast<BFloat16*>(tiles);
  for (int v = 0; v < vectors; ++v, tile += 3 * kPart, rows += kTileRows) {
    for (int i = 0; i < kTileDepth; ++i) {
      for (int j = 0; j < kTileRows; ++j) {
        put_parts(tile, place_in_b(i, j), i < k ? rows[i * row + j] : 0.0f);
      }
    }
  }
}

void fold(FoldArguments<float>& f, MatrixWork<float>&) { isa::portable_float.fold(f); }

// Adds the products of a tile of A with one of B.
void add_products(const BFloat16* a, const BFloat16* b, double (*sums)[kTileRows]) {
  for (const auto& [of_a, of_b] : {std::pair{0, 2}, {1, 1}, {0, 1}, {2, 0}, {1, 0}, {0, 0}}) {
    for (int i = 0; i < kTileRows; ++i) {
      for (int j = 0; j < kTileRows; ++j) {
        for (int k = 0; k < kTileDepth; ++k) {
          sums[i][j] += static_cast<double>(a[of_a * kPart + i * kTileDepth + k]) *
                        static_cast<double>(b[of_b * kPart + place_in_b(k, j)]);
        }
      }
    }
  }
}

void finish(MatrixWork<float>& w) {
  w.line_count = 0;
  for (; w.call != w.end; ++w.call) {
    const MatrixCall<float>& call = *w.call;
    for (int v = 0; v < call.vectors; ++v) {
      double sums[kTileRows][kTileRows] = {};
      const float* a = call.a;
      for (int s = 0; s < call.count; ++s) {
        const float* b = call.segments[s].b + v * kTileElements<float>;
        for (int64_t k = 0; k < call.segments[s].k; ++k, a += kTileElements<float>, b += w.b_row) {
          add_products(reinterpret_cast<const BFloat16*>(a), reinterpret_cast<const BFloat16*>(b), sums);
        }
      }
      for (int i = 0; i < call.m; ++i) {
        for (int j = 0; j < kTileRows; ++j) {
          float& c = call.c[i * w.c_row + v * kTileRows + j];
          c = static_cast<float>(call.accumulate ? c + sums[i][j] : sums[i][j]);
        }
      }
    }
  }
}

void nothing() {}

constexpr MatrixKernels<float> kMatrix = {2, nothing, nothing, split_rows, split_points, fold, finish};

}  // namespace

namespace isa {
const Kernels<float> matrix_twin_float = with_matrix("matrix_twin", portable_float, &kMatrix);
const Kernels<double> matrix_twin_double = with_matrix<double>("matrix_twin", portable_double, nullptr);
}  // namespace isa

}  // namespace symconv::cpu
