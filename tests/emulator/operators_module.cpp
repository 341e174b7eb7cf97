// The operators of csrc/cuda on the emulated device.
#include <pybind11/stl.h>

#include <stdexcept>
#include <vector>

#include "../../csrc/cuda/operators.h"
#include "memory.h"
#include "module.h"

namespace py = pybind11;

namespace symconv::emulator {
namespace {

using cuda::DType;
using cuda::Operator;

// batch, a, b, groups, transposed, then input, output, kernel, stride, padding, dilation (z, v, h each), then
// orbits.
Problem problem_of(const std::vector<int64_t>& n) {
  if (n.size() != 5 + 6 * kAxes + kBlocks)
    throw std::runtime_error("a problem is " + std::to_string(5 + 6 * kAxes + kBlocks) + " numbers");
  Problem p{};
  auto next = n.begin();
  p.batch = *next++;
  p.a_channels = *next++;
  p.b_channels = *next++;
  p.groups = *next++;
  p.transposed = *next++ != 0;
  for (int64_t* field : {p.input, p.output, p.kernel, p.stride, p.padding, p.dilation}) {
    for (int d = 0; d < kAxes; ++d) field[d] = *next++;
  }
  for (int b = 0; b < kBlocks; ++b) p.orbits[b] = *next++;
  return p;
}

Operator operator_of(const std::string& name) {
  if (name == "fprop") return Operator::kFprop;
  if (name == "dgrad") return Operator::kDgrad;
  if (name == "wgrad") return Operator::kWgrad;
  throw std::runtime_error("unknown operator " + name);
}

DType dtype_of(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  if (name == "float16") return DType::kFloat16;
  if (name == "bfloat16") return DType::kBFloat16;
  throw std::runtime_error("unknown dtype " + name);
}

// A tensor in Python: (buffer, offset in bytes, five strides in elements), or None.
cuda::Tensor tensor_of(const py::object& object, DType dtype) {
  cuda::Tensor tensor{nullptr, dtype, {}};
  if (object.is_none()) return tensor;
  const py::tuple parts = object.cast<py::tuple>();
  tensor.data = parts[0].cast<const DeviceBuffer&>().data() + parts[1].cast<int64_t>();
  const auto strides = parts[2].cast<std::vector<int64_t>>();
  for (size_t d = 0; d < 5; ++d) tensor.strides[d] = strides.at(d);
  return tensor;
}

// Runs an operator on first, second, bias -> result; all of the result and of the workspace is poisoned
// before.
void run(const std::string& name, const std::vector<int64_t>& numbers, const std::string& dtype_name,
         bool allow_tf32, const py::object& first, const py::object& second, const py::object& bias,
         const py::object& result) {
  const Problem problem = problem_of(numbers);
  const Operator op = operator_of(name);
  const DType dtype = dtype_of(dtype_name);
  const cuda::Tensor a = tensor_of(first, dtype), b = tensor_of(second, dtype), c = tensor_of(bias, dtype),
                     out = tensor_of(result, dtype);
  DeviceBuffer workspace(cuda::workspace_size(op, problem, a, b, allow_tf32));
  workspace.poison();
  const cuda::Context context{nullptr, workspace.data(), allow_tf32};
  if (op == Operator::kFprop) cuda::fprop(problem, a, b, c, out, context);
  if (op == Operator::kDgrad) cuda::dgrad(problem, a, b, c, out, context);
  if (op == Operator::kWgrad) cuda::wgrad(problem, a, b, out, context);
  workspace.check_margins();
}

}  // namespace

void bind_operators(py::module_& module) {
  module.def("run", &run);
  module.def("kernel_for", [](const std::string& name, const std::vector<int64_t>& numbers,
                              const std::string& dtype, bool allow_tf32) {
    const cuda::Kernel kernel =
        cuda::kernel_for(operator_of(name), problem_of(numbers), dtype_of(dtype), allow_tf32);
    return kernel == cuda::Kernel::kTensorCore ? "tensor core" : "plain";
  });
}

}  // namespace symconv::emulator
