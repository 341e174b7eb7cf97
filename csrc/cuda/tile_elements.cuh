// Element types on their way to a tensor core: how they are stored, folded and handed to mma.
//
// One step of mma takes 32 bytes of channels from each row: 16 numbers of a half type or 8 of tf32.
#pragma once

#include <type_traits>
#include <utility>

#include "../common/fold.h"
#include "arch.cuh"

namespace symconv::cuda {

constexpr int kStepBytes = 32;

namespace detail {
template <typename Body, int... Is>
__device__ __forceinline__ void unrolled(Body&& body, std::integer_sequence<int, Is...>) {
  (body(std::integral_constant<int, Is>{}), ...);
}
}  // namespace detail

// body(0), body(1), ..., body(N - 1), the numbers as types: for what must be a constant, such as the index of
// a register.
template <int N, typename Body>
__device__ __forceinline__ void unrolled(Body&& body) {
  detail::unrolled(body, std::make_integer_sequence<int, N>{});
}

// TileElement<T> says for T = Float16, BFloat16, TensorFloat32:
//
// - Storage: the type of the tensor's elements.
// - kStepChannels: channels of one step.
// - kHalvesOnPatch: whether the halves of the fold (common/fold.h) stand on the patch and not on the weights.
//   They do in float16, where a plain sum of taps could overflow.
// - Value: a word of the patch (two halves or one float32) while it is folded, with + and -.
// - value<A>(word): the Value of a raw word, times 2^-A where the halves stand on the patch; halved() of a
// Value
//   does that once more. operand() of a Value is what mma takes.
// - fold<A>(first, second): makes a pair of Values their sum and their difference, both times 2^-A where the
//   halves stand on the patch. That is multiplied into the sums, but for one of the two, which is multiplied
//   before: the first, or, where other pairs can share that, the second. Nothing overflows on the way.
// - factor(s, A): a word that stands for the sign s (1 or -1) of a tap in a fold over A axes, and
//   sum.plus(word, factor), which adds a raw word times it: for folds whose shape is known at run time.
template <typename T>
struct TileElement;

template <typename Value>
__device__ __forceinline__ void fold_plain(Value& first, Value& second) {
  Value pair[2] = {first, second};
  hadamard<2>(pair);
  first = pair[0];
  second = pair[1];
}

// Half types fold in the half type, two numbers at a time.
template <typename T, uint32_t One, bool HalvesOnPatch>
struct HalfElement {
  struct Value {
    uint32_t word;
    friend __device__ __forceinline__ Value operator+(Value a, Value b) {
      return {fma2<T>(b.word, One, a.word)};
    }
    friend __device__ __forceinline__ Value operator-(Value a, Value b) {
      return {fma2<T>(b.word, One | 0x80008000u, a.word)};
    }
    __device__ __forceinline__ Value halved() const { return value<1>(word); }
    __device__ __forceinline__ Value plus(uint32_t raw, uint32_t factor) const {
      return {fma2<T>(raw, factor, word)};
    }
    __device__ __forceinline__ uint32_t operand() const { return word; }
  };
  using Storage = T;
  static constexpr bool kHalvesOnPatch = HalvesOnPatch;
  static constexpr int kStepChannels = 16;

  static __device__ __forceinline__ uint32_t factor(int sign, int axes) {
    return (One - (HalvesOnPatch ? 0x04000400u * static_cast<uint32_t>(axes) : 0u)) |
           (sign < 0 ? 0x80008000u : 0u);
  }
  template <int Axes>
  static constexpr uint32_t kScale = One - 0x04000400u * Axes;  // 2^-Axes in float16
  template <int Axes>
  static __device__ __forceinline__ Value value(uint32_t word) {
    if constexpr (HalvesOnPatch && Axes > 0) {
      return {mul2<T>(word, kScale<Axes>)};
    } else {
      return {word};
    }
  }
  template <int Axes, bool ScaleSecond = false>
  static __device__ __forceinline__ void fold(Value& first, Value& second) {
    if constexpr (!HalvesOnPatch || Axes == 0) {
      fold_plain(first, second);
    } else if constexpr (ScaleSecond) {
      const uint32_t scaled = value<Axes>(second.word).word;
      second = {fms2<T>(first.word, kScale<Axes>, scaled)};
      first = {fma2<T>(first.word, kScale<Axes>, scaled)};
    } else {
      const uint32_t scaled = value<Axes>(first.word).word;
      first = {fma2<T>(second.word, kScale<Axes>, scaled)};
      second = {fma2<T>(second.word, kScale<Axes> | 0x80008000u, scaled)};
    }
  }
};
template <>
struct TileElement<BFloat16> : HalfElement<BFloat16, 0x3f803f80u, false> {};
template <>
struct TileElement<Float16> : HalfElement<Float16, 0x3c003c00u, true> {};

// tf32 folds in float32 and is rounded afterwards.
template <>
struct TileElement<TensorFloat32> {
  struct Value {
    float number;
    friend __device__ __forceinline__ Value operator+(Value a, Value b) { return {a.number + b.number}; }
    friend __device__ __forceinline__ Value operator-(Value a, Value b) { return {a.number - b.number}; }
    __device__ __forceinline__ Value halved() const { return *this; }
    __device__ __forceinline__ Value plus(uint32_t raw, uint32_t factor) const {
      return {number + word_to_float(raw ^ factor)};
    }
    __device__ __forceinline__ uint32_t operand() const { return to_tf32(number); }
  };
  using Storage = float;
  static constexpr bool kHalvesOnPatch = false;
  static constexpr int kStepChannels = 8;

  static __device__ __forceinline__ uint32_t factor(int sign, int) {
    return sign < 0 ? 0x80000000u : 0u;
  }  // flips the sign bit
  template <int Axes>
  static __device__ __forceinline__ Value value(uint32_t word) {
    return {word_to_float(word)};
  }
  template <int Axes, bool ScaleSecond = false>
  static __device__ __forceinline__ void fold(Value& first, Value& second) {
    fold_plain(first, second);
  }
};

// The fold of N = 1, 2, 4 or 8 raw Values along all axes that it has.
template <typename Element, int N>
__device__ __forceinline__ void fold_all(typename Element::Value (&values)[N]) {
#pragma unroll
  for (int i = 0; i + 1 < N; i += 2) Element::template fold<axis_count(N - 1)>(values[i], values[i + 1]);
  hadamard<N, 2>(values);
}

}  // namespace symconv::cuda
