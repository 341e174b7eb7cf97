// The tables of csrc/common behind a C interface, for test_channel_tables.py to read through ctypes.
#include <cstdint>

#include "common/channel_map.h"
#include "common/fold.h"
#include "common/problem.h"
#include "common/symmetry.h"

namespace {

symconv::Problem tied(const int64_t* orbits, int64_t groups, const int64_t* kernel) {
  symconv::Problem problem{};
  problem.groups = groups;
  for (int b = 0; b < symconv::kBlocks; ++b) problem.orbits[b] = orbits[b];
  for (int d = 0; d < symconv::kAxes; ++d) problem.kernel[d] = kernel ? kernel[d] : 1;
  return problem;
}

}  // namespace

extern "C" {

int blocks() { return symconv::kBlocks; }
int axis_bit(int dim) { return symconv::axis_bit(dim); }
int block_mask(int block) { return symconv::block_mask(block); }
int orbit_size(int mask) { return symconv::orbit_size(mask); }
int sign(int parity, int reflection) { return symconv::sign(parity, reflection); }
int reflection(int mask, int copy) { return symconv::reflection(mask, copy); }
int subset(int mask, int index) { return symconv::subset(mask, index); }
int subset_index(int mask, int parity) { return symconv::subset_index(mask, parity); }
int slot_of(int mask, int parity) { return symconv::slot_of(mask, parity); }

int64_t unique_filters(const int64_t* orbits) { return tied(orbits, 1, nullptr).unique(); }
int folded_axes(const int64_t* orbits) { return tied(orbits, 1, nullptr).folded_axes(); }

// For every tied channel of one group: its reduced filter and its reflection. Returns the number of channels.
int64_t channel_map(const int64_t* orbits, int64_t groups, int64_t* filters, int64_t* reflections) {
  const symconv::ChannelMap map(tied(orbits, groups, nullptr));
  for (const symconv::Block& block : map.blocks) {
    for (int64_t orbit = 0; orbit < block.orbits; ++orbit) {
      for (int copy = 0; copy < block.size(); ++copy) {
        filters[block.channel(orbit, copy)] = block.first + orbit;
        reflections[block.channel(orbit, copy)] = symconv::reflection(block.mask, copy);
      }
    }
  }
  return map.channels;
}

// The mask of the block that reduced filter `filter` of a group belongs to.
int mask_of(const int64_t* orbits, int64_t groups, int64_t filter) {
  return symconv::ChannelMap(tied(orbits, groups, nullptr)).block_of(filter).mask;
}

// Coefficients of the fold that these orbits need: for each its parity, its paired axes and its first tap (z,
// v, h).
int64_t coefficients(const int64_t* orbits, const int64_t* kernel, int64_t* parity, int64_t* paired,
                     int64_t* taps) {
  const symconv::Fold fold(tied(orbits, 1, kernel));
  for (int64_t i = 0; i < fold.total(); ++i) {
    const symconv::Coefficient c = fold.coefficient(i);
    parity[i] = c.parity;
    paired[i] = c.paired;
    for (int d = 0; d < symconv::kAxes; ++d) taps[i * symconv::kAxes + d] = c.tap[d];
  }
  return fold.total();
}

int64_t class_count(const int64_t* orbits, const int64_t* kernel, int parity) {
  return symconv::Fold(tied(orbits, 1, kernel)).count(parity);
}

int64_t class_first(const int64_t* orbits, const int64_t* kernel, int parity) {
  return symconv::Fold(tied(orbits, 1, kernel)).first(parity);
}

// The folded weight of one filter and channel, and the transpose of that map.
void fold_weight(const int64_t* orbits, const int64_t* kernel, const double* taps, double* folded) {
  const symconv::Fold fold(tied(orbits, 1, kernel));
  for (int64_t i = 0; i < fold.total(); ++i) folded[i] = fold.fold_weight<double>(fold.coefficient(i), taps);
}

void unfold_weight(const int64_t* orbits, const int64_t* kernel, const double* folded, double* taps) {
  const symconv::Fold fold(tied(orbits, 1, kernel));
  for (int64_t i = 0; i < fold.total(); ++i) fold.unfold_weight<double>(fold.coefficient(i), folded[i], taps);
}

void butterfly_to_copies(int mask, const double* slots, double* copies) {
  symconv::butterfly_to_copies(mask, slots, copies);
}

void butterfly_to_slots(int mask, const double* copies, double* slots) {
  symconv::butterfly_to_slots(mask, copies, slots);
}

}  // extern "C"
