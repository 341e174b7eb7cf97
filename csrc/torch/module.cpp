// The operators' schemas, and the Python module symconv_ext._C whose import registers them.
#include <Python.h>

#include <exception>
#include <string>
#include <vector>

#include "../cpu/kernels.h"
#include "tensor.h"

#if defined(SYMCONV_CUDA_ARCHITECTURES)
#include <cuda_runtime_api.h>

#include "../cuda/named.h"
#define SYMCONV_CUDA 1
#else
#define SYMCONV_CUDA 0
#define SYMCONV_CUDA_ARCHITECTURES ""
#define CUDART_VERSION 0
#endif

#define SYMCONV_SIZES "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, int[] orbits"
#define SYMCONV_GEOMETRY SYMCONV_SIZES ", bool transposed, bool allow_tf32"

STABLE_TORCH_LIBRARY(symconv_ext, library) {
  library.def("fprop(Tensor input, Tensor weight, Tensor? bias, " SYMCONV_GEOMETRY ") -> Tensor");
  library.def("dgrad(Tensor grad_output, Tensor weight, Tensor? bias, SymInt[] input_size, " SYMCONV_GEOMETRY
              ") -> Tensor");
  library.def("wgrad(Tensor grad_output, Tensor input, SymInt[] weight_size, " SYMCONV_GEOMETRY
              ") -> Tensor");
  library.def("mirror(Tensor weight, SymInt groups, int[] orbits, bool transposed) -> Tensor");
  // NAME_no_grad is the same operator without the derivative that Python registers for NAME. `geometry` are
  // all the arguments from stride on, in one list: see FlatGeometry.
  library.def("fprop_no_grad(Tensor input, Tensor weight, Tensor? bias, int[] geometry) -> Tensor");
  library.def(
      "dgrad_no_grad(Tensor grad_output, Tensor weight, Tensor? bias, int[] input_size, int[] geometry) -> "
      "Tensor");
  library.def("wgrad_no_grad(Tensor grad_output, Tensor input, int[] weight_size, int[] geometry) -> Tensor");
  // Both gradients of NAME, in the order of its arguments.
  library.def("fprop_backward(Tensor grad, Tensor input, Tensor weight, int[] geometry) -> (Tensor, Tensor)");
  library.def(
      "dgrad_backward(Tensor grad, Tensor grad_output, Tensor weight, int[] geometry) -> (Tensor, Tensor)");
  library.def("mirror_no_grad(Tensor weight, int groups, int[] orbits, bool transposed) -> Tensor");
  library.def("pack(Tensor weight, " SYMCONV_SIZES ", bool transposed) -> Tensor");
  library.def(
      "fprop_packed(Tensor input, Tensor packed, Tensor? bias, int[] weight_size, int[] geometry, bool "
      "channels_last) -> Tensor");
  library.def(
      "dgrad_packed(Tensor grad_output, Tensor packed, Tensor? bias, int[] weight_size, SymInt[] input_size, "
      "int[] geometry, bool channels_last) -> Tensor");
}

namespace {

PyObject* cpu_capability(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(symconv::cpu::capability());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

#if SYMCONV_CUDA
PyObject* cuda_kernel(PyObject*, PyObject* arguments) {
  const char *op = nullptr, *dtype = nullptr;
  int allow_tf32 = 0;
  PyObject* tuple = nullptr;
  if (!PyArg_ParseTuple(arguments, "sspO!", &op, &dtype, &allow_tf32, &PyTuple_Type, &tuple)) return nullptr;
  std::vector<int64_t> numbers;
  for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); ++i) {
    numbers.push_back(PyLong_AsLongLong(PyTuple_GetItem(tuple, i)));
    if (PyErr_Occurred() != nullptr) return nullptr;
  }
  try {
    return PyUnicode_FromString(symconv::cuda::kernel_name(op, dtype, allow_tf32 != 0, numbers));
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}
#endif

PyMethodDef methods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS,
     "The instruction set whose CPU kernels are in use, such as 'avx2'."},
#if SYMCONV_CUDA
    {"cuda_kernel", cuda_kernel, METH_VARARGS,
     "cuda_kernel(operator, dtype, allow_tf32, numbers): 'tensor core' or 'plain', which an operator runs; "
     "numbers are those of csrc/cuda/named.h. Only where CUDA kernels were built."},
#endif
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_C",
    "The compiled kernels: importing this registers torch.ops.symconv_ext.\n\n"
    "cuda_architectures: what the CUDA kernels were built for, such as '8.0;9.0+PTX'; '' without them.\n"
    "cuda_runtime: the CUDA runtime built in, such as 13000 for 13.0, which needs a driver that knows this "
    "major version; 0 without CUDA.",
    0,
    methods,
    nullptr,
    nullptr,
    nullptr,
    nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr &&
      (PyModule_AddStringConstant(module, "cuda_architectures", SYMCONV_CUDA_ARCHITECTURES) < 0 ||
       PyModule_AddIntConstant(module, "cuda_runtime", CUDART_VERSION) < 0)) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
