// The rows of wgrad's GEMM: what it takes from grad_output.
//
// For each parity class of the fold they are the slots of every filter that reads it, whatever its mask.
// Where the taps along v are not in the patch (WgradSchedule::by_v), there are such rows for each coefficient
// along v: the slots of the points that its taps reach a point of the source from, added up with their signs.
// Since
//     sum over y of  g[y] x[y + t]  =  sum over y of  g[y - t] x[y]
// that is the same gradient, and the input is folded along the other axes only.
#pragma once

#include <cstdint>
#include <vector>

#include "convolution.h"
#include "kernels.h"
#include "patch.h"
#include "scratch.h"
#include "tiling.h"

namespace symconv::cpu {

// Rows, one of each filter, and the coefficients of the patch's fold that they are multiplied with: `count`
// from `first` on, which are numbers `at` and further of a filter's sums.
struct Product {
  int64_t first, count, at;
};

// Points that the same taps along v reach, and what is added up for one product's rows there: of its class's
// slots those from `term` points on, with their signs.
struct MovedRun {
  int64_t product, point, count;
  int terms;
  struct {
    int64_t point;
    int sign;
  } term[2];
};

// What a thread needs for them, and where they are until the next tile's.
struct GradientBuffers {
  Scratch channels, planes, slots, moved;
  std::vector<OutputRun> outputs;
  std::vector<PointRun> runs, all;  // all: a tile's points, next to each other
  std::vector<MovedRun> moves;
};

template <typename T>
class GradientRows {
 public:
  // `patch`: of the convolution, or without_v() of it. It must outlive this.
  GradientRows(const Convolution& convolution, const Patch& patch, const WgradSchedule& schedule,
               const Kernels<T>& kernels);

  const std::vector<Product>& products() const { return products_; }
  // Where each coefficient of the whole fold is among a filter's sums.
  const std::vector<int64_t>& positions() const { return positions_; }
  // Points of a tile and what is needed around it, rounded up: elements from plane to plane.
  int64_t points() const { return points_; }

  // A tile's, of every product: element (product, row, point) is at data[product * product_step + row *
  // row_step + point * point_step].
  struct Rows {
    T* data;
    int64_t product_step, row_step, point_step;

    T* at(int64_t product, int64_t row, int64_t point) const {
      return data + product * product_step + row * row_step + point * point_step;
    }
  };
  // Points and rows keep the order of points and channels that grad_output has, unless filters are in the
  // lanes.
  Rows prepare(int64_t group, const Tile& tile, const Tensor& grad_output, GradientBuffers& buffers) const;

 private:
  static constexpr DType kComputed = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;

  // A tap along v whose points are added, with a sign.
  struct SignedTap {
    int64_t v;
    int sign;
  };
  // A tile's points of a group's channels of grad_output, wherever they lie.
  struct Source {
    const void* data;
    DType dtype;
    int64_t channel_stride, point_stride;
    const std::vector<PointRun>& runs;

    bool planar() const { return point_stride == 1 && channel_stride != 1; }
  };

  void plan_products();
  // Whether tap v reaches row `row` of the source from a row of the same image.
  bool reaches(int64_t row, int64_t v) const;

  Source source(int64_t group, const Tile& tile, const Tensor& grad_output, GradientBuffers& buffers) const;
  // The slots of a tile's grad_output, of every class.
  Rows slots(const Source& source, GradientBuffers& buffers) const;
  // The same of `count` orbits of a block, from `first` on, to rows from the first one on.
  void add_slots(const Source& source, const Block& block, int64_t first, int64_t count,
                 const Rows& slots) const;
  // Channels last to planes, with room for the whole vectors that stage writes.
  Source to_planes(const Source& source, GradientBuffers& buffers) const;
  // Whether vectors of the orbits of one block are mostly empty, so that channels_last tensors are transposed
  // as a whole first.
  bool narrow_blocks() const;
  // What is added up for a tile's rows of every product, of the slots of points from row `slots_row` on.
  void plan_moved(const Tile& tile, int64_t slots_row, std::vector<MovedRun>& moves) const;
  // Rows [first, first + count) of every product, of as many rows of slots.
  void add_moved(const std::vector<MovedRun>& moves, const Rows& slots, int64_t first, int64_t count,
                 const Rows& moved) const;

  const Convolution& c_;
  const Patch& patch_;
  const Kernels<T>& kernels_;
  bool by_v_, column_lanes_;
  Fold fold_;          // of all taps
  int classes_;        // of it
  int64_t rows_;       // filters of a group
  int64_t points_;     // of a plane
  int64_t row_lanes_;  // filters, rounded up
  std::vector<Product> products_;
  std::vector<int64_t> positions_;
  std::vector<int> class_of_;                 // by_v: whose slots are added up for a product,
  std::vector<std::vector<SignedTap>> taps_;  // and the taps that reach them
};

}  // namespace symconv::cpu
