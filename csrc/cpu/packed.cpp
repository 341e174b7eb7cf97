// Making packs and computing with them: see packed.h.
#include "packed.h"

#include <cstring>

#include "dgrad.h"
#include "kernels.h"
#include "plans.h"
#include "recent.h"

namespace symconv::cpu {
namespace {

constexpr int64_t kHeader = 16;      // elements: a cache line at least, so that what follows stays aligned
constexpr uint64_t kPackFormat = 7;  // to be raised when the order of packed weights changes
constexpr int64_t kMostStride = 16;  // a pack has a piece for each residue

// FNV-1a over whole numbers.
class Hash {
 public:
  void add(uint64_t number) {
    for (int i = 0; i < 8; ++i) value_ = (value_ ^ (number >> 8 * i & 255)) * 1099511628211u;
  }
  void add(const char* text) {
    for (; *text; ++text) add(static_cast<uint64_t>(*text));
    add(0u);
  }
  void add(unsigned number) { add(static_cast<uint64_t>(number)); }
  void add(int64_t number) { add(static_cast<uint64_t>(number)); }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 14695981039346656037u;
};

int64_t weights_of(const Convolution& c) {
  return c.groups * c.row_filters() * c.column_filters() * c.taps();
}

// The weight's side of a problem: one image, the least input that has every residue.
Problem weight_side(const Problem& problem) {
  Problem p = problem;
  p.batch = 1;
  for (int d = 0; d < kAxes; ++d) {
    p.input[d] = p.stride[d];
    p.output[d] = 1;
  }
  return p;
}

// Of a problem that calls come with. Valid until this thread's next call.
const PackLayout& recent_layout(const Problem& problem, Pass pass, DType dtype) {
  static thread_local Recent<PackLayout> recent;
  const bool is_dgrad = pass == Pass::kDgrad;
  return recent.get(problem, 2 * is_dgrad + (dtype == DType::kFloat64),
                    [&] { return PackLayout(problem, is_dgrad, dtype); });
}

}  // namespace

PackLayout::PackLayout(const Problem& problem, bool is_dgrad, DType dtype) {
  const Problem p = weight_side(problem);
  for (int d = 0; d < kAxes; ++d) {
    stride_[d] = is_dgrad ? p.stride[d] : 1;
    if (stride_[d] > kMostStride) return;
  }
  pieces_ = is_dgrad ? Convolution::dgrad(p) : std::vector<Convolution>{Convolution::fprop(p)};
  if (pieces_.empty() || capability() == std::string(kReference)) return;
  elements_ = kHeader;
  for (const Convolution& piece : pieces_) {
    offsets_.push_back(elements_);
    if (weights_of(piece) > 0) elements_ += plan_convolution(piece, dtype, 1, true)->packed_elements();
  }
  Hash hash;
  hash.add(kPackFormat);
  hash.add(capability());
  hash.add(is_dgrad ? 1u : 0u);
  hash.add(p.transposed ? 1u : 0u);
  hash.add(dtype == DType::kFloat64 ? 8u : 4u);
  for (const int64_t n : {p.groups, p.a_channels, p.b_channels}) hash.add(n);
  for (int b = 0; b < kBlocks; ++b) hash.add(p.orbits[b]);
  for (int d = 0; d < kAxes; ++d) {
    hash.add(p.kernel[d]);
    if (!is_dgrad) continue;
    for (const int64_t n : {p.stride[d], p.padding[d], p.dilation[d]}) hash.add(n);
  }
  fingerprint_ = hash.value();
}

int64_t PackLayout::offset(const Convolution& piece) const {
  int64_t index = 0;
  for (int d = 0; d < kAxes; ++d) index = index * stride_[d] + piece.output_first[d];
  return offsets_[index];
}

int64_t pack_elements(const Problem& problem, Pass pass, DType dtype) {
  return PackLayout(problem, pass == Pass::kDgrad, dtype).elements();
}

void pack(const Problem& problem, Pass pass, const Tensor& weight, void* packed, const Threads& threads) {
  const PackLayout layout(problem, pass == Pass::kDgrad, weight.dtype);
  const int64_t element = weight.dtype == DType::kFloat64 ? 8 : 4;
  char* bytes = static_cast<char*>(packed);
  std::memset(bytes, 0, kHeader * element);
  const uint64_t fingerprint = layout.fingerprint();
  std::memcpy(bytes, &fingerprint, sizeof fingerprint);
  for (const Convolution& piece : layout.pieces()) {
    if (weights_of(piece) == 0) continue;
    plan_convolution(piece, weight.dtype, threads.count, true)
        ->pack(weight, bytes + layout.offset(piece) * element, threads);
  }
}

bool fits(const Problem& problem, Pass pass, const void* packed, int64_t elements, DType dtype) {
  const PackLayout& layout = recent_layout(problem, pass, dtype);
  if (elements == 0 || elements != layout.elements()) return false;
  const uint64_t expected = layout.fingerprint();
  return std::memcmp(packed, &expected, sizeof expected) == 0;
}

void fprop_packed(const Problem& problem, const Tensor& input, const void* packed, const Tensor& bias,
                  const Tensor& output, const Threads& threads) {
  const int64_t element = input.dtype == DType::kFloat64 ? 8 : 4;
  for (const auto& plan : *plans_of(problem, Pass::kFprop, input.dtype, threads.count, true)) {
    plan->run(input, {}, static_cast<const char*>(packed) + kHeader * element, bias, output, threads);
  }
}

void dgrad_packed(const Problem& problem, const Tensor& grad_output, const void* packed, const Tensor& bias,
                  const Tensor& grad_input, const Threads& threads) {
  const PackLayout& layout = recent_layout(problem, Pass::kDgrad, grad_output.dtype);
  const int64_t element = grad_output.dtype == DType::kFloat64 ? 8 : 4;
  const auto& plans = plans_of(problem, Pass::kDgrad, grad_output.dtype, threads.count, true);
  run_pieces(problem, *plans, bias, grad_input, threads, [&](const ConvolutionPlan& piece) {
    const int64_t offset = layout.offset(piece.convolution()) * element;
    piece.run(grad_output, {}, static_cast<const char*>(packed) + offset, bias, grad_input, threads);
  });
}

}  // namespace symconv::cpu
