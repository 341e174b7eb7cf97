// The operators of csrc/cuda on the emulated device.
#include <pybind11/stl.h>

#include <vector>

#include "../../csrc/cuda/named.h"
#include "memory.h"
#include "module.h"

namespace py = pybind11;

namespace symconv::emulator {
namespace {

using cuda::DType;
using cuda::Operator;

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
  const Problem problem = cuda::problem_of(numbers);
  const Operator op = cuda::operator_of(name);
  const DType dtype = cuda::dtype_of(dtype_name);
  const cuda::Tensor a = tensor_of(first, dtype), b = tensor_of(second, dtype), c = tensor_of(bias, dtype),
                     out = tensor_of(result, dtype);
  DeviceBuffer workspace(cuda::workspace_size(op, problem, a, b, allow_tf32));
  workspace.poison();
  const cuda::Context context{nullptr, workspace.data(), allow_tf32};
  if (op == Operator::kFprop) cuda::fprop(problem, a, b, c, out, context);
  if (op == Operator::kDgrad) cuda::dgrad(problem, a, b, c, out, context);
  if (op == Operator::kWgrad) cuda::wgrad(problem, a, b, out, context);
  workspace.check_margins();
  result.cast<py::tuple>()[0].cast<const DeviceBuffer&>().check_margins();
}

}  // namespace

void bind_operators(py::module_& module) {
  module.def("run", &run);
  module.def("kernel_for",
             [](const std::string& name, const std::vector<int64_t>& numbers, const std::string& dtype,
                bool allow_tf32) { return cuda::kernel_name(name, dtype, allow_tf32, numbers); });
}

}  // namespace symconv::emulator
