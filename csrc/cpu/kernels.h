// The contract of the CPU micro-kernels: what the loops in fprop, dgrad and wgrad call, once per instruction
// set.
//
// fprop and dgrad compute in planar layout: a row of a matrix is one coefficient, filter or channel, and its
// elements are neighbouring output points ("points"; the GEMM takes at most kernels.panel() of them, a panel,
// the others any number). wgrad, which sums over points, also has a layout with points as rows and a vector
// of columns in each. An instruction set provides one Kernels<T> for float and one for double, with its block
// sizes. isa/portable.cpp is the plain twin: the same contract in ordinary loops of the compiler's choosing.
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

// One vector's worth of a fold: element `source` of a plane goes to point `target` of the panel. `count`
// points are written: all lanes, or fewer where the panel ends; lanes past the run's end hold rubbish that a
// later move overwrites.
struct Move {
  int64_t source;
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

// A set of taps that the folded axes mirror onto each other, 1, 2, 4 or 8 of them, in ascending order of
// reflection: the result whose parity has rank q is the sum over e of sign(q, e) times the number at plane[q]
// + tap[e], and is number coefficient[q]. `shared`: all plane[q] are the same. `mask[e]`: number of the tap.
struct PlaneSet {
  int terms;
  bool shared;
  int64_t plane[kMaxTerms], tap[kMaxTerms], coefficient[kMaxTerms];
  int mask[kMaxTerms];
};

// What fold needs to know of some columns. Column j's planes are `column` elements after those of column j
// - 1.
template <typename T>
struct FoldArguments {
  const PlaneSet* sets;
  int set_count;
  int64_t columns;
  const T* planes;  // readable for a whole vector at every tap of every move: but see masked_reads
  int64_t column;
  const Move* moves;
  int move_count;
  // Bit l of masks[move * mask_row + tap]: whether that tap exists for lane l of that move; zero is added
  // where it does not. Null: all do.
  const uint32_t* masks;
  int64_t mask_row;
  T* folded;  // [coefficient][column][point], rows `folded_row` elements apart
  int64_t folded_row;
  // What comes next, where the fold is done bit by bit: a column, counted from `first`, of a move of a set.
  struct Position {
    int64_t first, column;
    int set, move;
  } at;

  bool finished() const { return at.first == columns || set_count == 0 || move_count == 0; }
};

constexpr int kLine = 64;  // bytes of a line of memory

// Lines that follow one another.
struct LineRun {
  const char* first;
  int64_t count;
};

// Lines that will be needed soon, run by run, the last of which has no end.
struct Lines {
  const LineRun* run;
  const char* line;  // the next one, of that run
  int64_t left;      // with those that follow it

  [[gnu::always_inline]] const void* next() {
    const void* const now = line;
    line += kLine;
    if (--left == 0) {
      ++run;
      line = run->first;
      left = run->count;
    }
    return now;
  }
};

// What gemm does while it multiplies, where its own loads leave gaps: some of a fold of other data, unless it
// is null, and asking for the next `line_count` lines.
template <typename T>
struct Aside {
  FoldArguments<T>* fold = nullptr;
  Lines* lines = nullptr;
  int line_count = 0;
};

// A row that is added with a sign, 1 or -1.
template <typename T>
struct SignedRow {
  const T* data;
  T sign;
};

// A row that a slot is the sum of: its place, in elements from the slots' first row, and 1 or -1.
template <typename T>
struct SlotTerm {
  int64_t offset;
  T sign;
};

// What the epilogue needs: `slots` slots of `orbits` orbits, as rows of points, those of the next orbit `row`
// elements further. A slot is a row, or the sum of a few. Output element (reflection rank e, orbit, point) is
// at output[e] + orbit * orbit_stride + point * point_stride, in units of elements. bias[e] points to the
// orbits' biases (already of type T), consecutive, or is null.
template <typename T>
struct EpilogueArguments {
  int slots;  // 1, 2, 4 or 8; the same number of outputs
  int64_t orbits;
  const T* accumulators;
  int64_t row;
  int64_t slot;  // elements from a slot's row to that of the next slot
  // Unless null, slot q is the sum of term_count[q] rows, those of slot 0 first; all of them can be read for
  // a vector past their points.
  const SlotTerm<T>* terms;
  int term_count[kMaxTerms];
  int64_t points;
  void* output[kMaxTerms];
  int64_t orbit_stride;
  int64_t point_stride;
  const T* bias[kMaxTerms];
};

// `count` points that follow one another, both where they come from and where they go.
struct PointRun {
  int64_t source, target, count;

  bool operator==(const PointRun& other) const {
    return source == other.source && target == other.target && count == other.count;
  }
};

// What slots needs: `slots` channels of each of `orbits` orbits, whose element (reflection rank e, orbit,
// point) is at source[e] + orbit * orbit_stride + point * point_stride, the first point of a run at
// run.source elements from there. Parity class i of the fold gets slot `slot_of[i]`; a slot
// without a class is left out.
template <typename T>
struct SlotsArguments {
  int slots;  // 1, 2, 4 or 8
  const void* source[kMaxTerms];
  int64_t orbit_stride, point_stride;
  int64_t orbits;
  const PointRun* runs;
  int run_count;
  int classes;
  int slot_of[kMaxOrbit];
  T* target;
  int64_t class_step, orbit_step, point_step;  // one of the last two is 1
};

// What fold_points needs to know of one vector of columns: staged planes [point][lane], one for each channel
// copy, `plane` elements apart. Taps of the sets and sources of the runs count points.
template <typename T>
struct PointFoldArguments {
  const TapSet* sets;
  int set_count;
  int copies;
  const T* staged;
  int64_t plane;
  const PointRun* runs;
  int run_count;
  T* folded;  // the lanes of coefficient k of a point: folded + point * point_row + k * step
  int64_t point_row, step;
};

// What unfold_weight needs: for vector i < vectors and lane l < lanes, the sums of coefficient k are at
// sums[i * sums_row + k * step + l] and, from other shares of the points, every `share` elements from there;
// the gradient of tap t belongs to target[i * target_row + l * lane_stride + t].
template <typename T>
struct UnfoldArguments {
  const TapSet* sets;  // their tap[0] are offsets into a filter's taps, in elements of `target`
  int set_count;
  int64_t vectors;
  int lanes;
  const T* sums;
  int64_t sums_row, step;
  int64_t shares, share;
  void* target;
  int64_t target_row, lane_stride;
};

// Kernels of a matrix unit, which multiplies 16-bit numbers only. A T is split into three of them whose sum
// it is; of the nine products of two such sums the six largest are computed, so that what is left out is of
// the size of the rounding of a T. Both operands are tiles of three times kTileRows * kTileDepth parts, with
// zeros where there is no number: of A kTileRows rows of kTileDepth k, of B as many k of kTileRows points, a
// vector.
constexpr int kTileRows = 16;
constexpr int kTileDepth = 32;

// Elements of T that hold a tile's three parts.
template <typename T>
constexpr int64_t kTileElements = 3 * kTileRows * kTileDepth * 2 / static_cast<int64_t>(sizeof(T));

// C[i][j] = (accumulate ? C[i][j] : 0) + sum over segments of A B, i < m <= kTileRows, j < vectors *
// kTileRows. Segments count tiles of A and, of B, tiles of the same k, one for each vector.
template <typename T>
struct MatrixCall {
  int m, vectors;
  const T* a;
  const Segment<T>* segments;
  int count;
  T* c;
  bool accumulate;
};

// Calls that are made bit by bit, and what is left of them.
template <typename T>
struct MatrixWork {
  const MatrixCall<T>* call;
  const MatrixCall<T>* end;
  int64_t b_row;  // elements between tiles of B of one k and of the next
  int64_t c_row;
  Lines* lines;  // of which the next `line_count` are asked for on the side
  int64_t line_count;
  int64_t interval;  // how many vectors are folded or split between a tile of A with one vector and the next
  // The next tile of A: that of segment `segment`, `k` of which are done, with `vector` vectors of it.
  int segment = 0, vector = 0;
  int64_t k = 0, tile = 0;
};

template <typename T>
struct MatrixKernels {
  int vectors;  // of kTileRows points in a panel

  // Before the first work of a thread and after its last: the unit's registers are set up, and given back.
  void (*begin)();
  void (*end)();

  // Tiles of A, one for each kTileDepth of k, one after the other: A[i][j] = a[i * a_row + j * a_col] for i <
  // m <= kTileRows, j < k; one of the strides is 1.
  void (*split_rows)(int m, int64_t k, const T* a, int64_t a_row, int64_t a_col, T* tiles);

  // Tiles of B, one for each vector of points, of k <= kTileDepth rows `row` elements apart. Some of `work`
  // is done on the side.
  void (*split_points)(int k, int vectors, const T* rows, int64_t row, T* tiles, MatrixWork<T>& work);

  // The fold of Kernels; some of `work` is done on the side.
  void (*fold)(FoldArguments<T>&, MatrixWork<T>& work);

  // What is left of it.
  void (*finish)(MatrixWork<T>& work);
};

// A thread's use of a matrix unit, if it is not null.
template <typename T>
class MatrixUse {
 public:
  explicit MatrixUse(const MatrixKernels<T>* unit) : unit_(unit) {
    if (unit_) unit_->begin();
  }
  ~MatrixUse() {
    if (unit_) unit_->end();
  }
  MatrixUse(const MatrixUse&) = delete;
  MatrixUse& operator=(const MatrixUse&) = delete;

 private:
  const MatrixKernels<T>* unit_;
};

template <typename T>
struct Kernels {
  const char* name;
  int lanes;                       // elements in a vector
  int vectors;                     // vectors in a panel, 1..kMaxVectors
  int rows;                        // rows of A in a micro-tile, at most
  int64_t l1_bytes;                // what a coefficient class of a folded panel should stay below
  int64_t l2_bytes;                // what a thread's working set should stay below
  bool masked_reads;               // fold does not touch what a mask leaves out
  bool folds_aside;                // gemm has registers left to fold on the side
  const MatrixKernels<T>* matrix;  // null: there is no matrix unit

  int panel() const { return lanes * vectors; }

  // C[i][j] = (accumulate ? C[i][j] : 0) + sum over segments and k of A[i][k] B[k][j], i < m <= rows, j < v *
  // lanes. A[i][k] is a[i * a_row + k * a_col], k counting through all segments; rows of B are b_row, rows of
  // C c_row apart. With a_row = 1 and a_col = m (packed weights) the strides are compile-time constants.
  void (*gemm)(int m, int v, const T* a, int64_t a_row, int64_t a_col, const Segment<T>* segments, int count,
               int64_t b_row, T* c, int64_t c_row, bool accumulate, const Aside<T>& aside);

  // The fold, or what is left of it.
  void (*fold)(FoldArguments<T>&);

  // Staging: `columns` planes from elements source[column * column_stride + i * point_stride], i < n, widened
  // to T, to target[column * plane + i]. Where columns are consecutive in the source and points are not, up
  // to a vector past the n-th element of each plane's run may be overwritten.
  void (*stage)(DType dtype, const void* source, int64_t column_stride, int64_t point_stride, int64_t columns,
                int64_t n, T* target, int64_t plane);

  // Staging of one plane whose points lie next to each other: `runs` in ascending order of position, of
  // elements from `source` on, widened to T, to `target`, with zeros for padding. Up to a vector past the end
  // of the last run may be overwritten.
  void (*stage_rows)(DType dtype, const void* source, const StagedRun* runs, int64_t run_count, T* target);

  // out[i] = the sum of the rows' elements i, i < n. Up to a vector past the n-th element is read of every
  // row, and may be overwritten in `out`.
  void (*add_rows)(const SignedRow<T>* rows, int count, int64_t n, T* out);

  // The butterfly of the slots, plus bias, narrowed to the output's type.
  void (*epilogue)(DType dtype, const EpilogueArguments<T>&);

  // Slots of tied channels: target[class * class_step + orbit * orbit_step + (run.target + i) * point_step]
  // = sum over reflection ranks e of sign(slot_of[class], e) times the source's point i of that run. With one
  // slot it copies, which also brings planes to points.
  void (*slots)(DType dtype, const SlotsArguments<T>&);

  // The fold of fold() for points as rows: lanes are columns, whole vectors of them.
  void (*fold_points)(const PointFoldArguments<T>&);

  // Weight fold: for each of `sets` (their tap[0] are offsets into a filter's taps, in elements of `source`),
  // and each of `rows` filters row_stride apart and `columns` of their channels column_stride apart,
  // target[coefficient * coefficient_stride + column * rows + row] = butterfly / terms.
  void (*fold_weight)(DType dtype, const TapSet* sets, int set_count, const void* source, int64_t row_stride,
                      int rows, int64_t column_stride, int64_t columns, T* target,
                      int64_t coefficient_stride);

  // Its transpose: adds the shares in order; the taps of a set are the butterfly / terms.
  void (*unfold_weight)(DType dtype, const UnfoldArguments<T>&);
};

// The kernels in use: the best that this processor has, or those that SYMCONV_CPU_CAPABILITY names: default,
// avx2, avx512, amx, neon; matrix_twin, which is default with the plain twin of a matrix unit; or reference,
// which stands for the plain operators of reference.h and, where one has no plain form, for the kernels of
// default. Throws std::runtime_error for a name that is unknown or that the
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
