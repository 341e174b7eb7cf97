// The contract of the CPU micro-kernels: what the loops in fprop, dgrad and wgrad call, once per instruction
// set.
//
// Everything is computed in planar layout: a row of a matrix is one coefficient, filter or channel, and its
// elements are neighbouring output points ("points"; the GEMM takes at most kernels.panel() of them, a panel,
// the others any number). An instruction set provides one Kernels<T> for float and one for double, with its
// block sizes. isa/portable.cpp is the plain twin: the same contract in ordinary loops of the compiler's
// choosing.
//
// Buffers are 64-byte aligned, but no kernel relies on the alignment of any pointer. Kernels keep no state,
// allocate nothing and throw nothing. They read and write exactly the elements that the contract names; where
// they may go further, it says how far.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "operators.h"

namespace symconv::cpu {

constexpr int kMaxVectors = 3;  // vectors in a panel, at most
constexpr int kMaxTerms = 8;    // taps in a mirrored set, slots in an orbit

// One run of consecutive k in a GEMM: `k` rows of B that lie `b_row` elements apart, the first at `b`.
template <typename T>
struct Segment {
  const T* b;
  int64_t k;
};

// One vector's worth of a fold: staged element `source` goes to point `target` of the panel. `count` points
// are written: all lanes, or fewer where the panel ends; lanes past the run's end hold rubbish that a later
// move overwrites.
struct Move {
  int32_t source;
  int32_t target;
  int32_t count;
};

// A piece of a staged row: `count` elements from `position` of a plane on; those in [low, high) come from the
// source, from element `source` on, the others are padding.
struct StagedRun {
  int64_t position, low, high, count, source;
};

// A set of taps that the folded axes mirror onto each other, 1, 2, 4 or 8 of them, in ascending order of
// reflection. `tap[c][e]`: offset into the staged planes of channel copy c from the plane's start, for the
// tap that copy c adds to partial sum e. `coefficient[q]`: index of the result whose parity has rank q.
struct TapSet {
  int terms;
  int64_t tap[kMaxOrbit][kMaxTerms];
  int64_t coefficient[kMaxTerms];
};

// What fold needs to know of one chunk of columns. Copy c of column j is plane j * copies + c of `staged`.
template <typename T>
struct FoldArguments {
  const TapSet* sets;
  int set_count;
  int copies;  // 1, or the size of the orbits of tied columns
  int64_t columns;
  const T* staged;  // readable for a whole vector at every tap of every move
  int64_t plane;    // elements from plane to plane
  const Move* moves;
  int move_count;
  T* folded;  // [coefficient][column][point], rows `folded_row` elements apart
  int64_t folded_row;
};

// What the epilogue needs: `slots` slots of `orbits` orbits, as rows of points, the orbits of one slot
// consecutive. Output element (reflection rank e, orbit, point) is at output[e] + orbit * orbit_stride +
// point * point_stride, in units of elements. bias[e] points to the orbits' biases (already of type T),
// consecutive, or is null.
template <typename T>
struct EpilogueArguments {
  int slots;  // 1, 2, 4 or 8; the same number of outputs
  int64_t orbits;
  const T* accumulators;
  int64_t row;   // elements from row to row
  int64_t slot;  // elements from slot to slot
  int64_t points;
  void* output[kMaxTerms];
  int64_t orbit_stride;
  int64_t point_stride;
  const T* bias[kMaxTerms];
};

template <typename T>
struct Kernels {
  const char* name;
  int lanes;         // elements in a vector
  int vectors;       // vectors in a panel, 1..kMaxVectors
  int rows;          // rows of A in a micro-tile, at most
  int64_t l1_bytes;  // what a coefficient class of a folded panel should stay below
  int64_t l2_bytes;  // what a thread's working set should stay below

  int panel() const { return lanes * vectors; }

  // C[i][j] = (accumulate ? C[i][j] : 0) + sum over segments and k of A[i][k] B[k][j], i < m <= rows, j < v *
  // lanes. A[i][k] is a[i * a_row + k * a_col], k counting through all segments; rows of B are b_row, rows of
  // C c_row apart. With a_row = 1 and a_col = m (packed weights) the strides are compile-time constants.
  void (*gemm)(int m, int v, const T* a, int64_t a_row, int64_t a_col, const Segment<T>* segments, int count,
               int64_t b_row, T* c, int64_t c_row, bool accumulate);

  // The fold: partial sum e of a tap set adds tap[c][e] over the copies; coefficient q is the butterfly of
  // the sums.
  void (*fold)(const FoldArguments<T>&);

  // Staging: `columns` planes from elements source[column * column_stride + i * point_stride], i < n, widened
  // to T, to target[column * plane + i]. Where columns are consecutive in the source and points are not, up
  // to a vector past the n-th element of each plane's run may be overwritten.
  void (*stage)(DType dtype, const void* source, int64_t column_stride, int64_t point_stride, int64_t columns,
                int64_t n, T* target, int64_t plane);

  // Staging of one plane whose points lie next to each other: `runs` in ascending order of position, of
  // elements from `source` on, widened to T, to `target`, with zeros for padding. Up to a vector past the end
  // of the last run may be overwritten.
  void (*stage_rows)(DType dtype, const void* source, const StagedRun* runs, int64_t run_count, T* target);

  // The butterfly of the accumulators, plus bias, narrowed to the output's type.
  void (*epilogue)(DType dtype, const EpilogueArguments<T>&);

  // The slots of grad_output, point by point: target[point * point_row + q * slot + orbit] = sum over
  // reflection ranks e of sign(q, e) source[e][orbit * orbit_stride + point * point_stride].
  void (*slots)(DType dtype, int slots, const void* const* source, int64_t orbit_stride, int64_t point_stride,
                int64_t orbits, int64_t points, T* target, int64_t point_row, int64_t slot);

  // Weight fold: for each of `sets` (their tap[0] are offsets into a filter's taps, in elements of `source`),
  // and each of `rows` filters row_stride apart and `columns` of their channels column_stride apart,
  // target[coefficient * coefficient_stride + column * rows + row] = butterfly / terms.
  void (*fold_weight)(DType dtype, const TapSet* sets, int set_count, const void* source, int64_t row_stride,
                      int rows, int64_t column_stride, int64_t columns, T* target,
                      int64_t coefficient_stride);
};

// The kernels in use: the best that this processor has, or those that SYMCONV_CPU_CAPABILITY names: default,
// avx2, avx512, neon, or reference, which stands for the plain operators of reference.h and, where one has no
// plain form, for the kernels of default. Throws std::runtime_error for a name that is unknown or that the
// processor lacks.
template <typename T>
const Kernels<T>& kernels();

// The kernels of one of capabilities(). Throws std::runtime_error for any other name.
template <typename T>
const Kernels<T>& kernels(const std::string& name);

// The capability in use, and all that this processor has, lowest first.
const char* capability();
std::vector<std::string> capabilities();

constexpr const char* kReference = "reference";

}  // namespace symconv::cpu
