// From a tensor to folded patches, tile by tile: what fprop, dgrad and wgrad do before their GEMM.
//
// The output points of a convolution, of all images, are cut into tiles, and a tile's points are numbered and
// computed a panel at a time. For each chunk of columns:
//   stage  copies the source points that the tile needs to planes of this thread, one per channel, widened,
//          and takes the copies of tied columns to slots;
//   fold   turns the planes into the folded patches of a panel, [coefficient][column][point].
// There are two ways to do so:
//   by rows  A tile is a run of rows of points, or of pieces of them that start at the same point. Staged
//            rows have the padding as zeros, and points that a strided tap reads lie next to each other.
//   flat     Where the output is as large as the source, at stride 1, a tile is a run of points, wherever
//            rows and images end. A tap of neighbouring points lies at neighbouring places; what falls into
//            the padding is masked out. A planar source of the type that is computed in is folded where it
//            lies, without staging.
// Staging costs each thread a number of elements that does not grow with the image: see tiling.h.
#pragma once

#include <cstdint>
#include <vector>

#include "convolution.h"
#include "kernels.h"
#include "scratch.h"

namespace symconv::cpu {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Part `i` of n things in `parts` even parts starts here.
inline int64_t part(int64_t n, int64_t parts, int64_t i) { return n * i / parts; }

// Rows [first_row, last_row) of output points, points [first, last) of each. In a flat tiling every point is
// a row of its own.
struct Tile {
  int64_t first_row, last_row, first, last;

  int64_t width() const { return last - first; }
};

// Orbits [first, first + columns) of one column block; its channels, copy by copy, are staged as planes.
struct Chunk {
  int block;
  int64_t first, columns;
  int copies;

  int64_t planes() const { return columns * copies; }
};

// A run of points of a panel that lie at equal steps in a tensor.
struct OutputRun {
  int64_t point;  // of the panel
  int64_t count;
  int64_t offset;  // elements from the tensor's start, without the channel
};

// How the convolution is cut into tiles and chunks.
struct Tiling {
  int64_t rows;     // rows of a tile, at most
  int64_t width;    // points of a row, at most
  int64_t columns;  // columns of a chunk, at most: staged together
  bool flat;        // every point is a row, and a tile any run of them
  // Tiles one below the other, of as many rows each, or whole vectors of them if flat, as can be; 0: as few
  // as `rows` allows.
  int64_t row_tiles = 0;
};

class Patch {
 public:
  Patch(const Convolution& convolution, const Tiling& tiling, int lanes, int64_t element_bytes);

  int64_t tiles() const { return row_tiles_ * width_tiles_; }
  Tile tile(int64_t index) const;
  // The tile below that one; without rows if there is none.
  Tile below(int64_t index) const {
    return index + width_tiles_ < tiles() ? tile(index + width_tiles_) : Tile{};
  }
  int64_t points(const Tile& tile) const { return (tile.last_row - tile.first_row) * tile.width(); }
  // Points of the largest tile.
  int64_t max_points() const { return tiling_.rows * tiling_.width; }

  const std::vector<Chunk>& chunks() const { return chunks_; }
  // Coefficients of the fold, and the first and the number of those of a parity class.
  int64_t coefficients() const { return fold_.total(); }
  const Fold& fold() const { return fold_; }

  // Elements of the staging buffer.
  int64_t staged_elements() const { return max_planes_ * plane_; }

  // What to stage for a tile, the same for every channel.
  void staging(const Tile& tile, const Tensor& source, std::vector<StagedRun>& runs) const;
  template <typename T>
  void stage(const Kernels<T>& kernels, const std::vector<StagedRun>& runs, const Chunk& chunk, int64_t group,
             const Tensor& source, T* staged) const;

  // The planes of a chunk's columns: where the first one's start and how far apart columns are.
  template <typename T>
  struct Planes {
    const T* data;
    int64_t column;
    bool staged;
  };
  template <typename T>
  Planes<T> staged(const Chunk& chunk, const T* buffer) const {
    return {buffer, chunk.copies * plane_, true};
  }
  // Whether the source is folded where it lies.
  template <typename T>
  bool in_place(const Kernels<T>& kernels, const Tensor& source) const;
  // If it is: the source itself as planes of this tile.
  template <typename T>
  Planes<T> unstaged(const Tile& tile, const Chunk& chunk, int64_t group, const Tensor& source) const;

  // What of the source a tile reads that the tile before it did not, or not much more.
  void ahead(const Tile& tile, const Tensor& source, std::vector<OutputRun>& runs) const;

  // The moves of the tile's points in panels of `panel` points, to rows of as many; ends[i] is where panel
  // i's moves end. With a flat tiling, the masks of every move and tap, too. `source`: what is
  // folded in place; null where planes are staged.
  void moves(const Tile& tile, int64_t panel, const Tensor* source, std::vector<Move>& moves,
             std::vector<int>& ends, std::vector<uint32_t>& masks) const;

  // The fold of columns [first, first + columns) of a chunk, to [coefficient][column][point], by `count` of
  // those moves, from `begin` on.
  template <typename T>
  void fold(const Chunk& chunk, int64_t first, int64_t columns, const std::vector<Move>& moves, int begin,
            int count, const std::vector<uint32_t>& masks, const Planes<T>& planes, T* folded,
            int64_t folded_row, FoldArguments<T>& arguments) const;

  // Where the fold of a column would be a copy of its plane, as it is with a single tap, if its points lie
  // next to each other: the element of the plane that becomes point 0 of these moves. Otherwise -1.
  template <typename T>
  int64_t copied_from(const Chunk& chunk, const std::vector<Move>& moves, int begin, int count,
                      const Planes<T>& planes) const {
    const std::vector<PlaneSet>& sets = sets_[chunk.block].staged;
    if (!planes.staged || c_.taps() != 1 || sets.size() != 1) return -1;
    const int64_t shift = moves[begin].source - moves[begin].target;
    for (int i = begin + 1; i < begin + count; ++i) {
      if (moves[i].source - moves[i].target != shift) return -1;
    }
    return sets[0].plane[0] + sets[0].tap[0] + shift;
  }

  // For planes with points as rows (wgrad's): the runs of a tile's points in pieces of `piece` points, from
  // staged point to point of the piece; ends[i] is where piece i's runs end.
  void point_runs(const Tile& tile, int64_t piece, std::vector<PointRun>& runs, std::vector<int>& ends) const;
  int64_t plane() const { return plane_; }
  const std::vector<TapSet>& tap_sets(const Chunk& chunk) const { return sets_[chunk.block].taps; }

  // Where the tile's points in [begin, end) lie in a tensor whose points are the convolution's output points.
  void runs(const Tile& tile, int64_t begin, int64_t end, const Tensor& tensor,
            std::vector<OutputRun>& runs) const;

 private:
  // Vectors of an image that is folded in place, at least, if there are several: where two images meet, a
  // vector is folded twice.
  static constexpr int64_t kLeastImage = 2;

  int64_t image_points() const { return c_.output[0] * c_.output[1] * c_.output[2]; }
  // What tiles are cut from one below the other: rows, or vectors of them.
  int64_t at_once() const { return tiling_.flat ? lanes_ : 1; }
  int64_t row_count() const { return tiling_.flat ? c_.batch * image_points() : c_.output_rows(); }
  // By rows: what lies where in a plane, and the taps' offsets there.
  void plan_rows(TapOffsets (&offsets)[kAxes]);
  // Flat: the same.
  void plan_flat(TapOffsets (&offsets)[kAxes]);
  void flat_staging(const Tile& tile, const Tensor& source, std::vector<StagedRun>& runs) const;
  void flat_moves(const Tile& tile, int64_t panel, const Tensor* source, std::vector<Move>& moves,
                  std::vector<int>& ends, std::vector<uint32_t>& masks) const;
  // The masks of every tap for `lanes` points from `point` on. `along` is used for those along an axis.
  void add_masks(int64_t point, int64_t lanes, std::vector<uint32_t> (&along)[kAxes],
                 std::vector<uint32_t>& masks) const;
  // Points [begin, end) of all images in a tensor, where point y of an axis is element first + y * step.
  void flat_runs(int64_t begin, int64_t end, const Tensor& tensor, const int64_t* first, const int64_t* step,
                 std::vector<OutputRun>& runs) const;
  // Whether the points of an image lie at equal steps in a tensor.
  bool compact(const Tensor& tensor) const;
  // Of all images' points as many as lie at equal steps in a tensor: all, those of an image, or of a row.
  int64_t even_points(const Tensor& tensor) const;
  // The fold's sets for columns of `mask`, whose `slots` lie `plane` elements apart.
  std::vector<PlaneSet> plane_sets(int mask, const std::vector<int>& slots,
                                   const TapOffsets (&offsets)[kAxes], int64_t plane) const;
  // The slots of a chunk's columns, from their copies, which start at `from`, by the rank of their
  // reflection.
  template <typename T>
  void stage_slots(const Kernels<T>& kernels, const std::vector<PointRun>& runs, const Chunk& chunk,
                   DType dtype, const char* const* from, int64_t column_stride, int64_t point_stride,
                   T* staged) const;

  // Calls visit(first row, rows, first point) for the rows of each slice that the tile touches.
  template <typename Visit>
  void for_each_slice(const Tile& tile, Visit&& visit) const;

  struct Strip {  // a piece of a staged row: source points start + i * step, i < count, next to each other
    int64_t start, count, position;
  };

  // The folds of the columns of one block: of staged planes with points as rows, of staged planes, of the
  // source.
  struct Sets {
    std::vector<TapSet> taps;
    std::vector<int> slots;  // of the staged planes: those that are read
    std::vector<PlaneSet> staged, unstaged;
  };

  Convolution c_;
  Tiling tiling_;
  Fold fold_;
  int lanes_;
  int64_t row_tiles_, width_tiles_;
  std::vector<Chunk> chunks_;
  int64_t max_planes_ = 0;
  int64_t plane_ = 0;       // a plane
  std::vector<Sets> sets_;  // of each column block
  // By rows:
  std::vector<Strip> strips_;
  int64_t row_pitch_ = 0;     // a staged row
  bool shared_rows_ = true;   // whether v taps read the same staged rows, or each its own
  int64_t point_rows_ = 0;    // staged rows from one output row to the next
  int64_t section_rows_ = 0;  // staged rows for one z tap of one image slice
  int64_t tap_rows_ = 0;      // staged rows from one v tap to the next
  // Flat:
  TapOffsets reach_[kAxes];         // points along an axis from a point to each tap
  int64_t before_ = 0, after_ = 0;  // staged points before and after a tile's, for one z tap
  int64_t section_ = 0;             // staged points for one z tap
};

}  // namespace symconv::cpu
