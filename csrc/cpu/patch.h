// From a tensor to folded patches, tile by tile: what fprop, dgrad and wgrad do before their GEMM.
//
// The output points of a convolution, of all images, form rows of points; a tile is a run of such rows, or of
// pieces of them that start at the same point. A tile's points are numbered row by row and computed a panel
// at a time. For each chunk of columns:
//   stage  copies the source rows that the tile needs to planes of this thread, one per channel, widened,
//   with the padding
//          as zeros, and with the points that a strided tap reads lying next to each other;
//   fold   turns the planes into the folded patches of a panel, [coefficient][column][point].
// Staging costs each thread planes() * plane() elements, whatever the size of the image.
#pragma once

#include <cstdint>
#include <vector>

#include "convolution.h"
#include "kernels.h"
#include "scratch.h"

namespace symconv::cpu {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows [first_row, last_row) of output points, points [first, last) of each.
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
  int64_t rows;     // rows of a tile
  int64_t width;    // points of a row, at most
  int64_t columns;  // columns of a chunk, at most: staged together
  bool flat;        // number the points of a slice through its padded rows: see Patch::pitch()
};

class Patch {
 public:
  Patch(const Convolution& convolution, const Tiling& tiling, int lanes, int64_t element_bytes);

  int64_t tiles() const { return row_tiles_ * width_tiles_; }
  Tile tile(int64_t index) const;
  // The tile below this one; without rows if there is none.
  Tile after(const Tile& tile) const;
  // A tile's points are numbered row by row, from one row to the next of the same slice by pitch(). That is
  // the row's width, or, in a flat tiling (for stride 1), the width of a staged row: then a slice's points
  // lie next to each other where they are read, and the numbers between two rows stand for points that are
  // computed and thrown away.
  int64_t points(const Tile& tile) const;
  // Points of the largest tile.
  int64_t max_points() const { return tiling_.rows * pitch(tiling_.width); }

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

  // The moves of the tile's points in panels of `panel` points, to rows of as many; ends[i] is where panel
  // i's moves end.
  void moves(const Tile& tile, int64_t panel, std::vector<Move>& moves, std::vector<int>& ends) const;

  // For planes with points as rows (wgrad's): the runs of a tile's points in pieces of `piece` points, from
  // staged point to point of the piece; ends[i] is where piece i's runs end.
  void point_runs(const Tile& tile, int64_t piece, std::vector<PointRun>& runs, std::vector<int>& ends) const;
  int64_t plane() const { return plane_; }
  const std::vector<TapSet>& sets(const Chunk& chunk) const { return sets_[chunk.block]; }

  // Folds columns [first, first + columns) of a staged chunk, to [coefficient][column][point].
  template <typename T>
  void fold(const Kernels<T>& kernels, const Chunk& chunk, int64_t first, int64_t columns, const Move* moves,
            int move_count, const T* staged, T* folded, int64_t folded_row) const;

  // Where the tile's points in [begin, end) lie in a tensor whose points are the convolution's output points.
  void runs(const Tile& tile, int64_t begin, int64_t end, const Tensor& tensor,
            std::vector<OutputRun>& runs) const;

 private:
  int64_t pitch(int64_t width) const { return tiling_.flat ? row_pitch_ : width; }
  // Calls visit(first row, rows, first point) for the rows of each slice that the tile touches.
  template <typename Visit>
  void for_each_slice(const Tile& tile, Visit&& visit) const;

  struct Strip {  // a piece of a staged row: source points start + i * step, i < count, next to each other
    int64_t start, count, position;
  };

  Convolution c_;
  Tiling tiling_;
  Fold fold_;
  int lanes_;
  int64_t row_tiles_, width_tiles_;
  std::vector<Chunk> chunks_;
  int64_t max_planes_ = 0;
  std::vector<Strip> strips_;
  int64_t row_pitch_ = 0;                  // a staged row
  bool shared_rows_ = true;                // whether v taps read the same staged rows, or each its own
  int64_t point_rows_ = 0;                 // staged rows from one output row to the next
  int64_t section_rows_ = 0;               // staged rows for one z tap of one image slice
  int64_t tap_rows_ = 0;                   // staged rows from one v tap to the next
  int64_t plane_ = 0;                      // a plane
  std::vector<std::vector<TapSet>> sets_;  // of each column block
};

}  // namespace symconv::cpu
