// From the GEMM's sums to the output: see write_sums.h.
#include "write_sums.h"

#include <algorithm>
#include <limits>

#include "tiling.h"

namespace symconv::cpu {
namespace {

constexpr int64_t kBlockVectors = 4;  // of points, whose channels are written together

}  // namespace

template <typename T>
bool WriteSums<T>::gathers(const Tensor& output, const std::vector<RowRange>& rows) const {
  if (output.strides[1] != 1 || output.strides[4] == 1 || c_.output_step[2] != 1 || c_.rows.size() < 2)
    return false;
  int64_t vectors = 0;
  for (size_t b = 0; b < rows.size(); ++b) {
    if (rows[b].count() < c_.rows[b].orbits) return false;  // another part has the others
    vectors += c_.rows[b].size() * ceil_div(rows[b].count(), kernels_.lanes);
  }
  return 2 * vectors > 3 * ceil_div(c_.row_channels, kernels_.lanes);
}

template <typename T>
template <typename Write>
void WriteSums<T>::gather(const Target& target, int64_t first, int64_t last, WriteBuffers& buffers,
                          Write&& write) const {
  constexpr DType kComputed = sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
  const Tensor& output = target.output;
  const int64_t channels = c_.row_channels, plane = (kBlockVectors + 1) * kernels_.lanes;
  T* planes = buffers.planes.get<T>(channels * plane);
  const T* bias = static_cast<const T*>(target.bias);
  for (int64_t begin = first; begin < last; begin += kBlockVectors * kernels_.lanes) {
    const int64_t end = std::min(last, begin + kBlockVectors * kernels_.lanes);
    const Tensor gathered{planes, kComputed, {0, plane, 0, 0, 1}};
    buffers.runs.assign(1, {0, end - begin, 0});
    write(Target{0, bias ? bias + target.group * channels : nullptr, gathered, buffers.runs}, begin, end);
    EpilogueArguments<T> a{};
    a.slots = 1;
    a.orbits = channels;
    a.row = plane;
    a.orbit_stride = 1;
    a.point_stride = output.strides[4];
    for (const OutputRun& run : target.runs) {
      const int64_t low = std::max(begin - first, run.point),
                    high = std::min(end - first, run.point + run.count);
      if (low >= high) continue;
      a.accumulators = planes + low - (begin - first);
      a.points = high - low;
      a.output[0] = static_cast<char*>(output.data) +
                    (target.group * channels + run.offset + (low - run.point) * a.point_stride) *
                        element_size(output.dtype);
      kernels_.epilogue(output.dtype, a);
    }
  }
}

template <typename T>
void WriteSums<T>::write_by_v(const Target& target, const std::vector<RowRange>& rows, const T* sums,
                              int64_t sums_row, int64_t first, int64_t last, WriteBuffers& buffers) const {
  find_reached(first, last, buffers.reached);
  if (gathers(target.output, rows)) {
    return gather(target, first, last, buffers, [&](const Target& planes, int64_t begin, int64_t end) {
      write_reached(planes, rows, sums, sums_row, begin, end, buffers);
    });
  }
  write_reached(target, rows, sums, sums_row, first, last, buffers);
}

template <typename T>
void WriteSums<T>::write_reached(const Target& target, const std::vector<RowRange>& rows, const T* sums,
                                 int64_t sums_row, int64_t first, int64_t last, WriteBuffers& buffers) const {
  const auto begin = std::lower_bound(buffers.reached.begin(), buffers.reached.end(), first,
                                      [](const Reached& r, int64_t point) { return r.last <= point; });
  const auto end = std::lower_bound(begin, buffers.reached.end(), last,
                                    [](const Reached& r, int64_t point) { return r.first < point; });
  for (size_t b = 0; b < c_.rows.size(); ++b) {
    const int64_t orbits = rows[b].count();
    for (auto of = begin; of != end; ++of) {
      // What is added up is found once for all points that the same taps reach: in small images they are
      // many.
      const auto alike = [&](const Reached& other) { return other.taps == of->taps; };
      if (std::find_if(begin, of, alike) != of) continue;
      EpilogueArguments<T> a{};
      // A block that is not mirrored along v may have two terms for a tap, but has half as many slots at
      // most.
      SlotTerm<T> terms[kMaxOrbit * kMostTapsOfV];
      find_terms(b, of->taps, orbits * sums_row, terms, a);
      a.orbits = orbits;
      a.row = sums_row;
      for (auto points = of; points != end; ++points) {
        if (!alike(*points)) continue;
        const int64_t low = std::max(first, points->first), high = std::min(last, points->last);
        write_orbits(target, b, rows[b].first, sums + low, low - first, high - first, a);
      }
    }
    sums += orbits * static_cast<int64_t>(packing_.sums(b).size()) * sums_row;
  }
}

template <typename T>
void WriteSums<T>::find_reached(int64_t first, int64_t last, std::vector<Reached>& reached) const {
  const int64_t width = c_.output[2];
  reached.clear();
  for (int64_t point = first; point < last;) {
    const int64_t y = point / width % c_.output[1], end = std::min(last, (point / width + 1) * width);
    uint32_t taps = 0;
    for (int64_t t = 0; t < c_.kernel[1]; ++t) {
      const int64_t at = y + c_.reach_v(t);
      if (at >= 0 && at < c_.source[1]) taps |= uint32_t{1} << t;
    }
    if (!reached.empty() && reached.back().taps == taps) {
      reached.back().last = end;
    } else {
      reached.push_back({point, end, taps});
    }
    point = end;
  }
}

template <typename T>
void WriteSums<T>::find_terms(size_t b, uint32_t taps, int64_t sum, SlotTerm<T>* terms,
                              EpilogueArguments<T>& a) const {
  a.terms = terms;
  for (int q = 0; q < c_.rows[b].size(); ++q) {
    int64_t offset = 0;
    for (const Sum& of : packing_.sums(b)) {
      for (const Sum::Tap& tap : of.taps) {
        if (of.slot != q || !(taps >> tap.v & 1)) continue;
        *terms++ = {offset + c_.reach_v(tap.v) * c_.output[2], static_cast<T>(tap.sign)};
        ++a.term_count[q];
      }
      offset += sum;
    }
  }
}

template <typename T>
void WriteSums<T>::write(const Target& target, const std::vector<RowRange>& rows, const T* sums,
                         int64_t sums_row, int64_t points, WriteBuffers& buffers) const {
  if (gathers(target.output, rows)) {
    return gather(target, 0, points, buffers, [&](const Target& planes, int64_t begin, int64_t) {
      write_blocks(planes, rows, sums + begin, sums_row);
    });
  }
  write_blocks(target, rows, sums, sums_row);
}

template <typename T>
void WriteSums<T>::write_blocks(const Target& target, const std::vector<RowRange>& rows, const T* sums,
                                int64_t sums_row) const {
  const Tensor& output = target.output;
  const bool planar = output.strides[4] * c_.output_step[2] == 1;
  for (size_t b = 0; b < c_.rows.size(); ++b) {
    const RowRange range = rows[b];
    // Planes are written one after the other, from beginning to end.
    const int64_t orbits = range.count(), together = planar && target.runs.size() > 1 ? 1 : orbits;
    for (int64_t orbit = 0; orbit < orbits; orbit += together) {
      EpilogueArguments<T> a{};
      a.orbits = together;
      a.row = sums_row;
      a.slot = orbits * sums_row;
      write_orbits(target, b, range.first + orbit, sums + orbit * sums_row, 0,
                   std::numeric_limits<int64_t>::max(), a);
    }
    sums += orbits * c_.rows[b].size() * sums_row;
  }
}

template <typename T>
void WriteSums<T>::write_orbits(const Target& target, size_t b, int64_t first_orbit, const T* sums,
                                int64_t first, int64_t last, EpilogueArguments<T>& a) const {
  const Tensor& output = target.output;
  const T* bias = static_cast<const T*>(target.bias);
  const Block& block = c_.rows[b];
  const int64_t element = element_size(output.dtype);
  a.slots = block.size();
  a.orbit_stride = output.strides[1];
  a.point_stride = output.strides[4] * c_.output_step[2];
  char* outputs[kMaxTerms];
  for (int copy = 0; copy < block.size(); ++copy) {
    const int e = subset_index(block.mask, reflection(block.mask, copy));
    const int64_t channel = target.group * c_.row_channels + block.channel(first_orbit, copy);
    outputs[e] = static_cast<char*>(output.data) + channel * output.strides[1] * element;
    a.bias[e] = bias ? bias + channel : nullptr;
  }
  // Small images have many runs, and are written row by row where taps along v are added up.
  const auto ends_before = [](const OutputRun& run, int64_t point) { return run.point + run.count <= point; };
  auto run = std::lower_bound(target.runs.begin(), target.runs.end(), first, ends_before);
  for (; run != target.runs.end() && run->point < last; ++run) {
    const int64_t begin = std::max(first, run->point), end = std::min(last, run->point + run->count);
    a.accumulators = sums + begin - first;
    a.points = end - begin;
    for (int e = 0; e < block.size(); ++e) {
      a.output[e] = outputs[e] + (run->offset + (begin - run->point) * a.point_stride) * element;
    }
    kernels_.epilogue(output.dtype, a);
  }
}

template class WriteSums<float>;
template class WriteSums<double>;

}  // namespace symconv::cpu
