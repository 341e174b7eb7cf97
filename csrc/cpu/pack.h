// Folded weights in the order in which the GEMM of a convolution reads them.
//
// [group][piece of columns][row block][panel of rows][coefficient, sum by sum][column][row of the panel]:
// exactly as many numbers as the reduced weight. A piece is the part of a chunk that is folded and multiplied
// at once; a panel is kernels.rows rows of one block, or what is left of it. For a matrix unit, a panel has
// kTileRows rows, and its coefficients are tiles of A: the columns of a piece by kTileDepth, with zeros where
// there are no more rows or columns.
#pragma once

#include <cstdint>
#include <vector>

#include "ahead.h"
#include "patch.h"

namespace symconv::cpu {

// The coefficients of a row block that one sum of products goes over: `count` of them from `first` on in the
// packed order, and the runs of the folded patch that they are multiplied with. It is a slot of the rows or,
// where the taps along v are applied to the products, a term of a slot: the slot of a point is then made of
// the sums of points above and below, one for each of `taps`.
struct Sum {
  struct Run {
    int64_t first, count;  // coefficients of the patch's fold: (part of) a parity class
  };
  struct Tap {
    int64_t v;  // of the kernel
    int sign;
  };
  int slot = 0;
  int64_t first = 0, count = 0;
  std::vector<Run> runs;
  std::vector<Tap> taps;  // none: all taps are in the patch

  void add(int64_t first_coefficient, int64_t coefficients);
};

// Rows [first, last) of a row block.
struct RowRange {
  int64_t first, last;

  int64_t count() const { return last - first; }
};

// Columns [first, first + columns) of a chunk.
struct Piece {
  int64_t first, columns;
};

class Packing {
 public:
  // Pieces of at most `columns` columns, panels of at most `rows` rows. `by_v`: of each slot, the
  // coefficients of every tap (or mirrored pair of taps) along v follow one another. The patch may then be
  // that of convolution.without_v(), and each of them is a sum of its own. `tile_elements`: those of a tile
  // of a matrix unit; 0 if there is none.
  Packing(const Convolution& convolution, const Patch& patch, int64_t columns, int rows, bool by_v,
          int64_t tile_elements);

  int64_t elements() const { return convolution_.groups * group_elements(); }
  int64_t chunk_elements(size_t chunk) const {
    return taps_ * block_elements(group_rows_, patch_.chunks()[chunk].columns);
  }
  // One coefficient of a panel of `rows` rows.
  int64_t coefficient_elements(const Piece& piece, int64_t rows) const {
    return block_elements(rows, piece.columns);
  }
  const std::vector<Sum>& sums(size_t block) const { return sums_[block]; }

  const std::vector<Piece>& pieces(size_t chunk) const { return pieces_[chunk]; }

  // Packed element at which the panel of rows from `row` of row block `block` starts.
  int64_t offset(int64_t group, size_t chunk, const Piece& piece, size_t block, int64_t row) const {
    return group * group_elements() + taps_ * (block_elements(group_rows_, before_[chunk] + piece.first) +
                                               block_elements(rows_before_[block] + row, piece.columns));
  }

  // Folds and packs all of `weight`.
  template <typename T>
  void pack(const Kernels<T>& kernels, const Tensor& weight, T* packed, const Threads& threads) const;

  // Adds the packed weights of a chunk and some rows of every block, of elements of `element` bytes.
  void ahead(int64_t group, size_t chunk, const std::vector<RowRange>& rows, const void* packed,
             int64_t element, Ahead& ahead) const;

  // A weight that is folded panel by panel.
  class Source {
   public:
    Source(const Packing& packing, const Tensor& weight);

    // The panel of rows from `row` of row block `block`, for `columns` of a piece of a chunk.
    struct Panel {
      size_t chunk;
      Piece piece, columns;
      size_t block;
      int64_t row;
    };
    // Adds the panels of `rows` of every row block for chunks [first, last), in the order in which the weight
    // lies in memory.
    void panels(size_t first, size_t last, const std::vector<RowRange>& rows,
                std::vector<Panel>& panels) const;
    // Folds panels [begin, end) of a list, counted through all groups, to where the panel of the whole piece
    // starts: packed[offset(group, panel)] less `first`.
    template <typename T>
    void fold(const Kernels<T>& kernels, const std::vector<Panel>& panels, int64_t begin, int64_t end,
              T* packed, int64_t first) const;
    // What that will read for a chunk and some rows of every block.
    void ahead(int64_t group, size_t chunk, const std::vector<RowRange>& rows, Ahead& ahead) const;

   private:
    template <typename T>
    void fold_panel(const Kernels<T>& kernels, int64_t group, const Panel& panel, T* target) const;
    // Loads the memory that panels from `begin` on fold, in the order in which it lies there: as many of them
    // as fold the same filters, or channels, and `most_bytes` together. Returns the end of those. A processor
    // follows loads far ahead, but not what it is asked for, nor the pieces that a panel reads.
    int64_t load_panels(int64_t group, const std::vector<Panel>& panels, int64_t begin, int64_t end,
                        int64_t most_bytes) const;
    // Whether all taps of a filter's channel lie next to each other.
    bool taps_together() const;
    // Its filters and their channels, as the weight counts them in a group.
    RowRange rows_of(const Panel& panel) const;
    RowRange columns_of(const Panel& panel) const;
    // Calls visit(first byte, bytes) for the runs in which rows and columns of the weight lie, one or, where
    // its taps do not lie together, one for each tap in each filter or channel.
    template <typename Visit>
    void for_each_run(int64_t group, const RowRange& rows, const RowRange& columns, Visit&& visit) const;

    const Packing& packing_;
    const Tensor& weight_;
    int64_t group_stride_, row_stride_, column_stride_;
    std::vector<int64_t> taps_;              // of a filter: offsets, in ascending order
    std::vector<std::vector<TapSet>> sets_;  // of each row block
  };

 private:
  // The sums of a row block whose coefficients get `position`, in the order of their parity classes.
  void plan_by_class(const Block& block, std::vector<Sum>& sums, std::vector<int64_t>& position) const;
  // The same, by taps along v.
  void plan_by_v(const Block& block, std::vector<Sum>& sums, std::vector<int64_t>& position) const;
  int64_t group_elements() const { return taps_ * block_elements(group_rows_, group_columns_); }
  // Rows and columns in whole tiles, where there are tiles.
  int64_t block_elements(int64_t rows, int64_t columns) const {
    if (tile_elements_ == 0) return rows * columns;
    return ceil_div(rows, kTileRows) * ceil_div(columns, kTileDepth) * tile_elements_;
  }

  const Convolution& convolution_;
  const Patch& patch_;
  int64_t panel_rows_, taps_, tile_elements_;
  int64_t group_rows_ = 0, group_columns_ = 0;
  std::vector<int64_t> before_;                  // columns of a group before each chunk
  std::vector<std::vector<Piece>> pieces_;       // of each chunk
  std::vector<int64_t> rows_before_;             // rows of a group before each row block
  Fold fold_;                                    // of all taps
  std::vector<std::vector<Sum>> sums_;           // of each row block, slot by slot
  std::vector<std::vector<int64_t>> positions_;  // of each coefficient in a row block's packed order
};

}  // namespace symconv::cpu
