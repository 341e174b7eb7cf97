// The products of fprop and dgrad: the folded patch of a tile times the packed weights, chunk by chunk, panel
// by panel and piece by piece, with the micro-kernels on vectors or on a matrix unit.
#pragma once

#include <cstdint>
#include <vector>

#include "convolution.h"
#include "kernels.h"
#include "look_ahead.h"
#include "pack.h"
#include "patch.h"
#include "scratch.h"

namespace symconv::cpu {

// The packed weights of a chunk: element packing.offset() - first.
template <typename T>
struct ChunkWeights {
  const T* packed;
  int64_t first;
};

// A call of the micro-kernel.
struct Call {
  int m;
  const void* packed;
  const Sum* sum;
  int64_t k;       // columns of its coefficients
  int64_t target;  // row of sums
};

// What a thread needs.
struct MultiplyBuffers {
  // Of a tile, from Patch::moves for panels as large as the kernels':
  std::vector<Move> moves;
  std::vector<int> ends;
  std::vector<uint32_t> masks;
  // What is asked for meanwhile.
  LookAhead ahead;
  // Of a chunk: the calls for a panel, piece after piece, and their k together.
  std::vector<Call> calls;
  std::vector<size_t> call_ends;
  int64_t all_k = 0;

  Scratch folded, tiles, segments, matrix_calls;
  std::vector<int64_t> copied_from;  // of each panel
};

template <typename T>
class Multiply {
 public:
  // `panel_rows`: of packed weights; `panel`: points that are multiplied at once; `matrix`: null if vectors
  // multiply. What is given by reference must outlive this.
  Multiply(const Convolution& convolution, const Patch& patch, const Packing& packing,
           const Kernels<T>& kernels, const MatrixKernels<T>* matrix, int panel_rows, int64_t panel)
      : c_(convolution),
        patch_(patch),
        packing_(packing),
        kernels_(kernels),
        matrix_(matrix),
        panel_rows_(panel_rows),
        panel_(panel) {}

  // Plans the calls of chunk `k` for `rows` of every row block: for each piece a panel of rows of every sum.
  void plan(int64_t group, size_t k, const std::vector<RowRange>& rows, const ChunkWeights<T>& weights,
            MultiplyBuffers& buffers) const;

  // Adds the products of that chunk of a tile of `points` points to the sums, rows of points `sums_row`
  // apart; those of the first chunk set them.
  void run(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
           MultiplyBuffers& buffers) const;

 private:
  // With a matrix unit: as many columns as a tile is deep are folded and split at a time, until all of a
  // piece are there; the piece before is multiplied on the side.
  void multiply_tiles(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                      MultiplyBuffers& buffers) const;
  // The products of one piece of a panel, whose tiles are complete, with all rows of the weight.
  MatrixWork<T> plan_work(size_t j, int vectors, size_t k, const T* tiles, int64_t depth, int64_t step,
                          T* sums, int64_t sums_row, MultiplyBuffers& buffers) const;
  // Where the fold would only copy: with the planes themselves. Returns whether that is so.
  bool multiply_planes(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                       MultiplyBuffers& buffers) const;
  // Where the kernels can, they fold the next piece while they multiply one.
  void fold_and_multiply(int64_t points, size_t k, const Patch::Planes<T>& planes, T* sums, int64_t sums_row,
                         MultiplyBuffers& buffers) const;
  // One folded piece of a panel, whose rows lie `row` elements apart, with all rows of the weight. Out of
  // line, as it is measured to be faster.
  [[gnu::noinline]] void multiply_piece(size_t j, int vectors, size_t k, const T* folded, int64_t row,
                                        T* sums, int64_t sums_row, FoldArguments<T>* next_fold,
                                        MultiplyBuffers& buffers) const;
  int vectors_of(int64_t points) const;

  const Convolution& c_;
  const Patch& patch_;
  const Packing& packing_;
  const Kernels<T>& kernels_;
  const MatrixKernels<T>* matrix_;
  int panel_rows_;
  int64_t panel_;
};

}  // namespace symconv::cpu
