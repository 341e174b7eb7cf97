// How much of a convolution one thread computes at a time.
#pragma once

#include <cstdint>

#include "patch.h"

namespace symconv::cpu {

struct Schedule {
  Tiling tiling;
  int64_t piece_columns;  // columns that are folded and multiplied at once, at most
  int vectors;            // of points in a panel
  int64_t row_splits;  // work items per tile, each with a part of every row block
};

// Bounds: a folded panel of a chunk stays in half of `l2_bytes`, the tile's accumulators and staged planes in
// about as much each.
Schedule schedule(const Convolution& convolution, int lanes, int vectors, int rows, int64_t l1_bytes,
                  int64_t l2_bytes, int64_t element_bytes, int threads);

// For wgrad, which folds a whole tile at a time: the folded tile of a chunk stays in half of `l2_bytes`.
Tiling wgrad_tiling(const Convolution& convolution, int lanes, int64_t l2_bytes, int64_t element_bytes,
                    int threads);

}  // namespace symconv::cpu
