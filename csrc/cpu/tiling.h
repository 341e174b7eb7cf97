// How much of a convolution one thread computes at a time.
//
// What a thread holds is bounded by these choices and not by the image: staged planes (kStagedPlanes, or the
// kPiecePlanes of a piece), the folded panel of a piece (5 times the L1 of kernels.h, or kPieceColumns
// columns), and the accumulators of a tile (half of the L2 of kernels.h, in strips up to twice it, or a
// panel). wgrad holds folded points instead (a quarter of the L2, or 16 points; with filters in the lanes
// half of it, or one column), the slots of a tile's grad_output and of the rows that taps along v reach, and
// for every share of the points one set of sums as large as the reduced weight. For a matrix unit there are
// two buffers of tiles besides (for two L1 each, or kTileDepth columns, as often as there are taps along v
// where these are in the patch after all), and in wgrad grad_output's tiles and those of 128 points. Where
// folds_weights_in_tiles, the packed weights of a chunk come on top.
#pragma once

#include <cstdint>

#include "patch.h"

namespace symconv::cpu {

// Taps along v that are applied to the products, at most: with more, all taps are in the patch.
constexpr int kMostTapsOfV = 31;

struct Schedule {
  Tiling tiling;
  int64_t piece_columns;  // columns that are folded and multiplied at once, at most
  int vectors;            // of points in a panel
  int64_t row_splits;     // work items per tile or strip, each with a part of every row block
  bool by_v;              // the order of the packed weights: by taps along v
  // Where the taps along v are applied to the products: parts of all images, each with whole rows, that are
  // work items, whose tiles follow one another. 0: those taps are in the patch.
  int64_t strips;
};

// Whether the weights are folded where they are needed, chunk by chunk, and not all of them ahead: they are
// where a group's points are one tile, of which each part of the rows needs its own only.
constexpr bool folds_weights_in_tiles(int64_t tiles) { return tiles == 1; }

// What multiplies: a micro-tile of `rows` x `vectors` of `lanes` points.
struct Unit {
  int lanes, vectors, rows;
  // A piece is folded while the one before is multiplied, so two are held.
  bool folds_aside;
  // A matrix unit, whose tiles need whole kTileRows and kTileDepth.
  bool matrix;
  int64_t l1_bytes, l2_bytes, element_bytes;
};

// Whether a matrix unit is faster than vectors. If the weights have been packed, it does not depend on
// extents: they hold for every input.
bool takes_matrix(const Convolution& convolution, int threads, bool packed);

// For fprop and the pieces of dgrad. tiling.columns and piece_columns depend on the kernel and the channels
// only. `packed`: whether the weights have been folded.
Schedule schedule(const Convolution& convolution, const Unit& unit, int threads, bool packed);

// For wgrad. Of its GEMM's two results' sides, folded columns and filters, one fills vectors: columns, with
// points as rows of the folded patch, or filters.
struct WgradSchedule {
  bool column_lanes;
  bool by_v;             // the taps along v are applied to grad_output, not to the input
  Tiling tiling;         // with columns in lanes, chunks of whole vectors of them
  int64_t piece_points;  // points that are folded and multiplied at once, at most
};

// `matrix`: for a matrix unit, where wgrad_takes_matrix.
WgradSchedule wgrad_schedule(const Convolution& convolution, int lanes, int64_t l2_bytes,
                             int64_t element_bytes, int threads, bool matrix);

// Whether a matrix unit is faster than vectors.
bool wgrad_takes_matrix(const Convolution& convolution, int threads);

}  // namespace symconv::cpu
