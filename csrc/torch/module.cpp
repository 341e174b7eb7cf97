// The operators' schemas, and the Python module symconv_ext._C whose import registers them.
#include <Python.h>

#include "tensor.h"

STABLE_TORCH_LIBRARY(symconv_ext, library) {
  library.def(
      "fprop(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] "
      "dilation, "
      "SymInt groups, int[] orbits, bool transposed, bool allow_tf32) -> Tensor");
  library.def(
      "dgrad(Tensor grad_output, Tensor weight, Tensor? bias, SymInt[] input_size, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, SymInt groups, int[] orbits, bool transposed, bool allow_tf32) "
      "-> Tensor");
  library.def(
      "wgrad(Tensor grad_output, Tensor input, SymInt[] weight_size, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups, int[] orbits, bool transposed, bool allow_tf32) -> Tensor");
  library.def("mirror(Tensor weight, SymInt groups, int[] orbits, bool transposed) -> Tensor");
}

namespace {

// What the CUDA kernels were built for, such as "8.0;9.0+PTX"; empty without CUDA.
#if defined(SYMCONV_CUDA_ARCHITECTURES)
constexpr char kCudaArchitectures[] = SYMCONV_CUDA_ARCHITECTURES;
#else
constexpr char kCudaArchitectures[] = "";
#endif

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    "_C",
    "The compiled kernels: importing this registers torch.ops.symconv_ext.\n\n"
    "cuda_architectures: what the CUDA kernels were built for, such as '8.0;9.0+PTX'; empty "
    "without them.",
    0,
    nullptr,
    nullptr,
    nullptr,
    nullptr,
    nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr && PyModule_AddStringConstant(module, "cuda_architectures", kCudaArchitectures) < 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
