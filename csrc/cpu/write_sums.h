// From the GEMM's sums to the output of fprop and dgrad: sums of taps along v to slots, slots through the
// butterfly to channels.
//
// In channels_last the butterfly's rows are transposed in vectors of channels. Where several narrow row
// blocks would leave most of these empty, the channels are gathered first: planes of a few points take the
// output's place, and are then transposed together.
#pragma once

#include <cstdint>
#include <vector>

#include "convolution.h"
#include "kernels.h"
#include "pack.h"
#include "patch.h"
#include "scratch.h"

namespace symconv::cpu {

// Output points [first, last) to which the same taps along v reach: bit t for tap t.
struct Reached {
  int64_t first, last;
  uint32_t taps;
};

// What a thread needs.
struct WriteBuffers {
  Scratch planes;
  std::vector<Reached> reached;
  std::vector<OutputRun> runs;
};

// Where a tile's results go: a bias per row channel or null, the runs of its points.
struct Target {
  int64_t group;
  const void* bias;  // of the type that is computed in
  const Tensor& output;
  const std::vector<OutputRun>& runs;
};

template <typename T>
class WriteSums {
 public:
  // `packing`: of the convolution; both must outlive this.
  WriteSums(const Convolution& convolution, const Packing& packing, const Kernels<T>& kernels)
      : c_(convolution), packing_(packing), kernels_(kernels) {}

  // The slots of a tile of `points` points, of `rows` of every row block: rows of points, `sums_row` apart.
  // Along the rows of one channel after the other, or, where channels lie next to each other, along the
  // points.
  void write(const Target& target, const std::vector<RowRange>& rows, const T* sums, int64_t sums_row,
             int64_t points, WriteBuffers& buffers) const;

  // Output points [first, last), those of the target's runs, of `rows` of every row block, from the sums of
  // the taps along v, of which point p of a row is at sums[p].
  void write_by_v(const Target& target, const std::vector<RowRange>& rows, const T* sums, int64_t sums_row,
                  int64_t first, int64_t last, WriteBuffers& buffers) const;

 private:
  // Whether channels are gathered.
  bool gathers(const Tensor& output, const std::vector<RowRange>& rows) const;
  // Calls write(target, begin, end) with planes in the target's place for a few of its points [first, last)
  // at a time, and transposes these planes to it.
  template <typename Write>
  void gather(const Target& target, int64_t first, int64_t last, WriteBuffers& buffers, Write&& write) const;

  // write and write_by_v, to a target as it is.
  void write_blocks(const Target& target, const std::vector<RowRange>& rows, const T* sums,
                    int64_t sums_row) const;
  void write_reached(const Target& target, const std::vector<RowRange>& rows, const T* sums, int64_t sums_row,
                     int64_t first, int64_t last, WriteBuffers& buffers) const;

  // Which taps along v reach the source from the output points [first, last).
  void find_reached(int64_t first, int64_t last, std::vector<Reached>& reached) const;
  // What the slots of a block's orbits are sums of where these taps along v reach, if their sums lie `sum`
  // elements apart: terms for the epilogue.
  void find_terms(size_t b, uint32_t taps, int64_t sum, SlotTerm<T>* terms, EpilogueArguments<T>& a) const;
  // The butterfly of some orbits of a row block, to the output, for points [first, last) of its runs; `sums`
  // are those of the first of these points. Of `a` it needs what says how slots and orbits lie there.
  void write_orbits(const Target& target, size_t b, int64_t first_orbit, const T* sums, int64_t first,
                    int64_t last, EpilogueArguments<T>& a) const;

  const Convolution& c_;
  const Packing& packing_;
  const Kernels<T>& kernels_;
};

}  // namespace symconv::cpu
