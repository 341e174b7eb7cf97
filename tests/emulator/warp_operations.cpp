// Fragment layouts and arithmetic of the warp collectives, after the PTX ISA (sections on shfl.sync,
// ldmatrix, mma.sync).
#include "warp_operations.h"

#include <cstring>

#include "../../csrc/cpu/scalar.h"

namespace symconv::emulator {
namespace {

uint16_t half_of(uint32_t word, int which) { return static_cast<uint16_t>(which ? word >> 16 : word); }

float f16(uint16_t bits) {
  cpu::Float16 h;
  h.u = bits;
  return static_cast<float>(h);
}
float bf16(uint16_t bits) {
  cpu::BFloat16 h;
  h.u = bits;
  return static_cast<float>(h);
}
// The tensor core reads the upper 19 bits of a tf32 operand.
float tf32(uint32_t word) { return cpu::bits::to_float(word & 0xffffe000u); }

// Row r of an 8x8 matrix of 16-bit elements is handed in by lane 8 m + r; lane l gets elements 2 (l % 4) and
// the next of row l / 4, or with .trans of column l / 4.
void ldmatrix(int matrices, bool transposed, void* const* operands) {
  for (int m = 0; m < matrices; ++m) {
    uint16_t element[8][8];
    for (int row = 0; row < 8; ++row) {
      const auto* source = static_cast<const LdmatrixOperand*>(operands[m * 8 + row]);
      for (int c = 0; c < 8; ++c) element[row][c] = half_of(source->row[c / 2], c % 2);
    }
    for (int lane = 0; lane < 32; ++lane) {
      const int major = lane / 4, minor = 2 * (lane % 4);
      const uint16_t low = transposed ? element[minor][major] : element[major][minor];
      const uint16_t high = transposed ? element[minor + 1][major] : element[major][minor + 1];
      static_cast<LdmatrixOperand*>(operands[lane])->result[m] = low | static_cast<uint32_t>(high) << 16;
    }
  }
}

// D (16 x 8) += A (16 x depth) B (depth x 8); products exact, one rounding per instruction.
template <int Depth>
void multiply(const float (&a)[16][Depth], const float (&b)[Depth][8], void* const* operands) {
  for (int lane = 0; lane < 32; ++lane) {
    auto* operand = static_cast<MmaOperand*>(operands[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i >= 2 ? 8 : 0), column = 2 * (lane % 4) + (i & 1);
      double sum = static_cast<double>(operand->c[i]);
      for (int k = 0; k < Depth; ++k)
        sum += static_cast<double>(a[row][k]) * static_cast<double>(b[k][column]);
      operand->c[i] = static_cast<float>(sum);
    }
  }
}

template <typename Convert>
void mma_16bit(Convert&& convert, void* const* operands) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* operand = static_cast<const MmaOperand*>(operands[lane]);
    const int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < 8; ++i) {  // a_i: rows 8.. for i in {2, 3, 6, 7}, columns 8.. for i >= 4
      a[group + (i & 2 ? 8 : 0)][2 * in_group + (i & 1) + (i >= 4 ? 8 : 0)] =
          convert(half_of(operand->a[i / 2], i & 1));
    }
    for (int i = 0; i < 4; ++i) {
      b[2 * in_group + (i & 1) + (i >= 2 ? 8 : 0)][group] = convert(half_of(operand->b[i / 2], i & 1));
    }
  }
  multiply<16>(a, b, operands);
}

void mma_tf32(void* const* operands) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* operand = static_cast<const MmaOperand*>(operands[lane]);
    const int group = lane / 4, in_group = lane % 4;
    for (int i = 0; i < 4; ++i) a[group + (i & 1 ? 8 : 0)][in_group + (i >= 2 ? 4 : 0)] = tf32(operand->a[i]);
    for (int i = 0; i < 2; ++i) b[in_group + (i ? 4 : 0)][group] = tf32(operand->b[i]);
  }
  multiply<8>(a, b, operands);
}

void shuffle(void* const* operands) {
  uint32_t values[32];
  for (int lane = 0; lane < 32; ++lane) values[lane] = static_cast<ShuffleOperand*>(operands[lane])->value;
  for (int lane = 0; lane < 32; ++lane) {
    auto* operand = static_cast<ShuffleOperand*>(operands[lane]);
    operand->value = values[(lane ^ operand->lane_mask) & 31];
  }
}

}  // namespace

void execute(Collective op, int variant, void* const* operands) {
  switch (op) {
    case Collective::kShuffleXor:
      return shuffle(operands);
    case Collective::kLdmatrix:
      return ldmatrix(variant, false, operands);
    case Collective::kLdmatrixTransposed:
      return ldmatrix(variant, true, operands);
    case Collective::kMmaF16:
      return mma_16bit(f16, operands);
    case Collective::kMmaBf16:
      return mma_16bit(bf16, operands);
    case Collective::kMmaTf32:
      return mma_tf32(operands);
  }
}

}  // namespace symconv::emulator
