// Checks of operator arguments: see arguments.h.
#include "arguments.h"

#include <algorithm>

namespace symconv::binding {

std::string text(const Ints& numbers) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < numbers.size(); ++i) out << (i ? ", " : "") << numbers[i];
  out << ']';
  return out.str();
}

namespace {

// No stride, padding, dilation or requested size is larger, so that sums of a few of them cannot overflow.
constexpr int64_t kLimit = int64_t{1} << 40;

const char* block_name(int block) {
  constexpr const char* names[kBlocks] = {"h", "v", "z", "hv", "hz", "vz", "hvz", "plain"};
  return names[block];
}

std::string device_text(const Tensor& tensor) {
  int32_t type = 0, index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &index));
  if (type == aoti_torch_device_type_cpu()) return "cpu";
  std::ostringstream out;
  if (type == aoti_torch_device_type_cuda()) {
    out << "cuda";
  } else {
    out << "device type " << type;
  }
  if (index >= 0) out << ':' << index;
  return out.str();
}

std::string dtype_text(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    default:
      return torch::headeronly::toString(dtype);
  }
}

bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::Half ||
         dtype == ScalarType::BFloat16;
}

void check_alike(const Argument& argument, const Argument& like) {
  const ScalarType dtype = argument.tensor.scalar_type(), expected = like.tensor.scalar_type();
  if (dtype != expected) {
    fail(argument.name, ": expected dtype ", dtype_text(expected), " like ", like.name, ", got ",
         dtype_text(dtype), "; convert one of them with .to(dtype), or use autocast");
  }
  if (!(argument.tensor.device() == like.tensor.device())) {
    fail(argument.name, ": expected a tensor on ", device_text(like.tensor), " like ", like.name,
         ", got one on ", device_text(argument.tensor), "; move one of them with .to(device)");
  }
}

void check_storage(const Argument& argument) {
  if (argument.tensor.numel() > 0 && argument.tensor.const_data_ptr() == nullptr) {
    fail(argument.name, ": expected a tensor with data, got one of size ", text(argument.tensor.sizes()),
         " whose storage has been freed; restore it first");
  }
}

void check_numbers(const char* name, const Ints& numbers, int rank, int64_t least) {
  if (static_cast<int>(numbers.size()) != rank) {
    fail(name, ": expected ", rank, " numbers, one per spatial dimension, got ", text(numbers));
  }
  for (const int64_t n : numbers) {
    if (n < least) {
      fail(name, ": expected at least ", least, " in every dimension, got ", text(numbers));
    }
    if (n > kLimit) fail(name, ": expected at most ", kLimit, ", got ", text(numbers));
  }
}

// Sizes (batch, channels, *spatial) with `rank` spatial dimensions, none but the batch empty.
void check_image(const char* name, const Ints& sizes, int rank) {
  if (static_cast<int>(sizes.size()) != rank + 2) {
    fail(name, ": expected ", rank + 2, " dimensions (batch, channels and ", rank,
         " spatial), as many as the weight has, got size ", text(sizes),
         "; an unbatched input goes through the layer or symconv_ext.functional");
  }
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] < (d == 0 ? 0 : 1)) {
      fail(name, ": expected at least one channel and one point in every dimension (only the batch may be ",
           "empty), got size ", text(sizes));
    }
    if (sizes[d] > kLimit) {
      fail(name, ": expected at most ", kLimit, " in every dimension, got size ", text(sizes));
    }
  }
}

// Orbits of every block, checked against groups and rank.
void fill_orbits(Problem& p, int64_t groups, const Ints& orbits, int rank) {
  if (groups < 1 || groups > kLimit) fail("groups: expected at least 1, got ", groups);
  if (orbits.size() != kBlocks) {
    fail("orbits: expected ", kBlocks, " numbers (h, v, z, hv, hz, vz, hvz, plain), got ", text(orbits),
         "; see Symmetry.orbits");
  }
  for (int b = 0; b < kBlocks; ++b) {
    if (orbits[b] < 0 || orbits[b] > kLimit) {
      fail("orbits: expected counts of at least 0, got ", text(orbits), "; see Symmetry.orbits");
    }
    if (orbits[b] % groups != 0) {
      fail("orbits: expected a multiple of groups=", groups, " in every block, got ", orbits[b],
           " orbits of ", block_name(b), "; change the count of filters or groups");
    }
    if (orbits[b] > 0 && block_mask(b) >= 1 << rank) {
      fail("orbits: expected no ", block_name(b), " orbits with a ", rank, "-d kernel, got ", orbits[b],
           "; the axes of a ", rank, "-d layer are ", rank == 1 ? "h" : "h and v");
    }
    p.orbits[b] = orbits[b];
  }
  p.groups = groups;
}

// The weight's part of a problem: kernel, channels, groups and orbits.
Problem weight_problem(const char* name, const Ints& sizes, int64_t groups, const Ints& orbits,
                       bool transposed) {
  const int rank = static_cast<int>(sizes.size()) - 2;
  if (rank < 1 || rank > kAxes) {
    fail(name, ": expected 3, 4 or 5 dimensions (two of channels, then the kernel), got size ", text(sizes));
  }
  Problem p{};
  p.transposed = transposed;
  fill_orbits(p, groups, orbits, rank);
  for (int d = 0; d < kAxes; ++d) {
    p.input[d] = p.output[d] = p.kernel[d] = p.stride[d] = p.dilation[d] = 1;
  }
  int64_t taps = 1;
  for (int d = 0; d < rank; ++d) {
    const int64_t k = sizes[2 + d];
    if (k < 1 || k > kLimit || __builtin_mul_overflow(taps, k, &taps)) {
      fail(name, ": expected kernel sizes of at least 1, got size ", text(sizes));
    }
    p.kernel[kAxes - rank + d] = k;
  }

  // The tied dimension counts reduced filters; the other one counts channels.
  const int64_t unique = p.unique();
  const int64_t tied = sizes[transposed ? 1 : 0] * (transposed ? groups : 1);
  const int64_t others = sizes[transposed ? 0 : 1];
  if (tied != unique || unique == 0) {
    fail(name, ": expected ", transposed ? unique / groups : unique, " reduced filters in dimension ",
         transposed ? 1 : 0, " (at least one) for orbits ", text(orbits), " and groups=", groups,
         ", got size ", text(sizes), "; see Symmetry.unique_out_channels");
  }
  if (others < 1 || (transposed && others % groups != 0)) {
    fail(name, ": expected ",
         transposed ? "a positive multiple of groups=" : "at least one channel, groups=", groups,
         " in dimension ", transposed ? 0 : 1, ", got size ", text(sizes));
  }
  int64_t channels = 0;
  for (int b = 0; b < kBlocks; ++b) channels += orbits[b] * orbit_size(block_mask(b));
  p.a_channels = transposed ? others : channels;
  if (transposed) {
    p.b_channels = channels;
  } else if (__builtin_mul_overflow(others, groups, &p.b_channels)) {
    fail(name, ": expected fewer channels, got size ", text(sizes), " with groups=", groups);
  }
  return p;
}

// Adds stride, padding and dilation.
void fill_geometry(Problem& p, const Geometry& geometry, int rank) {
  check_numbers("stride", geometry.stride, rank, 1);
  check_numbers("padding", geometry.padding, rank, 0);
  check_numbers("dilation", geometry.dilation, rank, 1);
  for (int d = 0; d < rank; ++d) {
    const int at = kAxes - rank + d;
    p.stride[at] = geometry.stride[d];
    p.padding[at] = geometry.padding[d];
    p.dilation[at] = geometry.dilation[d];
  }
}

void check_channels(const char* name, const Ints& sizes, int64_t channels) {
  if (sizes[1] != channels) {
    fail(name, ": expected ", channels, " channels for this weight, groups and orbits, got ", sizes[1],
         " in size ", text(sizes));
  }
}

// Points from the first to the last tap of the kernel.
int64_t reach(const Problem& p, int d) {
  int64_t n = 0;
  if (__builtin_mul_overflow(p.kernel[d] - 1, p.dilation[d], &n) || n > kLimit) {
    fail("dilation: expected the dilated kernel to span at most ", kLimit, " points, got kernel size ",
         p.kernel[d], " with dilation ", p.dilation[d]);
  }
  return n + 1;
}

void fill_input(Problem& p, const char* name, const Ints& sizes, int rank) {
  check_image(name, sizes, rank);
  check_channels(name, sizes, p.b_channels);
  p.batch = sizes[0];
  for (int d = 0; d < rank; ++d) p.input[kAxes - rank + d] = sizes[2 + d];
}

// grad_output's sizes, which must be those of a result of fprop; see dgrad_problem.
void fill_output(Problem& p, const char* input_name, const Ints& input, const Ints& grad_output, int rank) {
  check_image("grad_output", grad_output, rank);
  check_channels("grad_output", grad_output, p.a_channels);
  if (grad_output[0] != p.batch) {
    fail("grad_output: expected a batch of ", p.batch, " like ", input_name, ", got size ",
         text(grad_output));
  }
  for (int d = 0; d < rank; ++d) {
    const int at = kAxes - rank + d;
    p.output[at] = grad_output[2 + d];
    int64_t least = 0;  // input points up to the last tap of the last output point
    const bool overflow = __builtin_mul_overflow(p.output[at] - 1, p.stride[at], &least) ||
                          __builtin_add_overflow(least, reach(p, at) - 2 * p.padding[at], &least);
    const int64_t slack = std::max(p.stride[at], p.dilation[at]);
    if (overflow || p.input[at] < least || p.input[at] - least >= slack) {
      fail("grad_output: expected the size that fprop gives for ", input_name, " ", text(input),
           ", got size ", text(grad_output), " (kernel ", p.kernel[at], ", stride ", p.stride[at],
           ", padding ", p.padding[at], ", dilation ", p.dilation[at], " in spatial dimension ", d, ")");
    }
  }
}

// A stride past the last tap, or the dilation of a single tap, changes nothing: made small, since kernels may
// do work for every residue modulo the stride.
void drop_ineffective(Problem& p) {
  for (int d = 0; d < kAxes; ++d) {
    if (p.kernel[d] == 1) p.dilation[d] = 1;
    const int64_t room = p.input[d] + 2 * p.padding[d] - reach(p, d);
    if (p.output[d] == 1) p.stride[d] = std::min(p.stride[d], std::max<int64_t>(room, 0) + 1);
  }
}

}  // namespace

FlatGeometry::FlatGeometry(const Ints& numbers) {
  constexpr int64_t kOthers = 1 + kBlocks + 2;
  const int64_t count = static_cast<int64_t>(numbers.size()), rank = (count - kOthers) / kAxes;
  if (rank < 1 || rank > kAxes || count != kAxes * rank + kOthers) {
    fail("geometry: expected stride, padding and dilation in up to ", kAxes, " spatial dimensions, groups, ",
         kBlocks, " numbers of orbits, transposed and allow_tf32, got ", text(numbers));
  }
  const int64_t* next = numbers.data();
  const auto take = [&](int64_t n) {
    next += n;
    return Ints(next - n, next);
  };
  stride = take(rank);
  padding = take(rank);
  dilation = take(rank);
  groups = *next++;
  orbits = take(kBlocks);
  transposed = *next++ != 0;
  allow_tf32 = *next != 0;
}

void check_tensor(const Argument& argument) {
  if (!is_supported(argument.tensor.scalar_type())) {
    fail(argument.name, ": expected dtype float32, float64, float16 or bfloat16, got ",
         dtype_text(argument.tensor.scalar_type()), "; convert it with .to(dtype)");
  }
  check_storage(argument);
}

void check_tensors(const Argument& first, const Argument& second) {
  check_tensor(first);
  check_alike(second, first);
  check_storage(second);
}

void check_packed(const Tensor& packed, const Argument& like) {
  const ScalarType expected =
      like.tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  if (packed.scalar_type() != expected || packed.dim() != 1 || !packed.is_contiguous()) {
    fail("packed: expected a pack of ", dtype_text(expected), " numbers, which ", like.name, " of dtype ",
         dtype_text(like.tensor.scalar_type()), " needs, got ", dtype_text(packed.scalar_type()), " of size ",
         text(packed.sizes()), "; make it with torch.ops.symconv_ext.pack");
  }
  if (!(packed.device() == like.tensor.device())) {
    fail("packed: expected a tensor on ", device_text(like.tensor), " like ", like.name, ", got one on ",
         device_text(packed), "; pack the weight anew");
  }
  check_storage({"packed", packed});
}

void check_bias(const std::optional<Tensor>& bias, int64_t channels, const Argument& like) {
  if (!bias) return;
  const Argument argument{"bias", *bias};
  check_alike(argument, like);
  if (bias->dim() != 1 || bias->size(0) != channels) {
    fail("bias: expected size [", channels, "], one value per channel of the result, got ",
         text(bias->sizes()), "; a bias per reduced filter is gathered first (share_bias)");
  }
  check_storage(argument);
}

Problem fprop_problem(const Tensor& input, const WeightSize& weight, const Geometry& geometry) {
  const Ints sizes = input.sizes().vec();
  const int rank = static_cast<int>(weight.size.size()) - 2;
  Problem p = weight_problem(weight.name, weight.size, geometry.groups, geometry.orbits, geometry.transposed);
  fill_geometry(p, geometry, rank);
  fill_input(p, "input", sizes, rank);
  for (int d = 0; d < kAxes; ++d) {
    const int64_t room = p.input[d] + 2 * p.padding[d] - reach(p, d);
    if (room < 0) {
      fail("input: expected at least ", p.input[d] - room, " points in spatial dimension ",
           d - (kAxes - rank), " for kernel size ", p.kernel[d], ", dilation ", p.dilation[d],
           " and padding ", p.padding[d], ", so that an output is left, got size ", text(sizes),
           "; pad it or shrink the kernel");
    }
    p.output[d] = room / p.stride[d] + 1;
  }
  drop_ineffective(p);
  return p;
}

Problem dgrad_problem(const Tensor& grad_output, const WeightSize& weight, const Ints& input_size,
                      const Geometry& geometry) {
  const int rank = static_cast<int>(weight.size.size()) - 2;
  Problem p = weight_problem(weight.name, weight.size, geometry.groups, geometry.orbits, geometry.transposed);
  fill_geometry(p, geometry, rank);
  fill_input(p, "input_size", input_size, rank);
  fill_output(p, "input_size", input_size, grad_output.sizes().vec(), rank);
  drop_ineffective(p);
  return p;
}

Problem wgrad_problem(const Tensor& grad_output, const Tensor& input, const Ints& weight_size,
                      const Geometry& geometry) {
  const Ints sizes = input.sizes().vec();
  const int rank = static_cast<int>(weight_size.size()) - 2;
  Problem p =
      weight_problem("weight_size", weight_size, geometry.groups, geometry.orbits, geometry.transposed);
  fill_geometry(p, geometry, rank);
  fill_input(p, "input", sizes, rank);
  fill_output(p, "input", sizes, grad_output.sizes().vec(), rank);
  drop_ineffective(p);
  return p;
}

Problem pack_problem(const Tensor& weight, const Geometry& geometry) {
  const Ints size = weight.sizes().vec();
  Problem p = weight_problem("weight", size, geometry.groups, geometry.orbits, geometry.transposed);
  fill_geometry(p, geometry, static_cast<int>(size.size()) - 2);
  for (int d = 0; d < kAxes; ++d) reach(p, d);  // or an error
  return p;
}

void keep_stride(Problem& p, const Geometry& geometry) {
  const int rank = static_cast<int>(geometry.stride.size());
  for (int d = 0; d < rank; ++d) p.stride[kAxes - rank + d] = geometry.stride[d];
}

Problem mirror_problem(const Tensor& weight, int64_t groups, const Ints& orbits, bool transposed) {
  return weight_problem("weight", weight.sizes().vec(), groups, orbits, transposed);
}

}  // namespace symconv::binding
