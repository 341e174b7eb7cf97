// The CUDA entry points: the operators over csrc/cuda, on torch's current stream and with torch's memory.
//
// Nothing here links libtorch_cuda, so that the extension also loads in a CPU-only torch.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include "../cuda/operators.h"
#include "operators.h"

namespace symconv::binding {
namespace {

using CurrentStream = AOTITorchError (*)(int32_t device_index, void** stream);

// torch's C function for the current stream, out of the libtorch_cuda that the process has loaded.
CurrentStream find_current_stream() {
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  void* symbol = library == nullptr ? nullptr : dlsym(library, "aoti_torch_get_current_cuda_stream");
  if (symbol == nullptr) {
    fail(
        "symconv_ext: this torch has CUDA tensors but no aoti_torch_get_current_cuda_stream in "
        "libtorch_cuda; use ",
        "torch 2.10 or newer, or symconv_ext.backend('torch')");
  }
  return reinterpret_cast<CurrentStream>(symbol);
}

cudaStream_t current_stream(int32_t device_index) {
  static const CurrentStream current = find_current_stream();
  void* stream = nullptr;
  if (current(device_index, &stream) != TORCH_SUCCESS) {
    fail("symconv_ext: torch gives no current stream for cuda:", device_index);
  }
  return static_cast<cudaStream_t>(stream);
}

// `size` bytes of torch's memory. They go back to it when the tensor dies: what runs later on the same stream
// cannot overtake the kernels that use them.
Tensor new_workspace(size_t size, int32_t device_index) {
  const int64_t bytes = static_cast<int64_t>(size), stride = 1;
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(1, &bytes, &stride, aoti_torch_dtype_uint8(), aoti_torch_device_type_cuda(),
                               device_index, &handle) != TORCH_SUCCESS) {
    fail("workspace: could not allocate ", bytes, " bytes on cuda:", device_index, why_not_allocated());
  }
  return Tensor(handle);
}

// One call's view of a GPU: made the current device for as long as this lives.
class Cuda {
 public:
  using View = cuda::Tensor;

  explicit Cuda(const Tensor& tensor)
      : device_index_(tensor.get_device_index()),
        guard_(device_index_),
        stream_(current_stream(device_index_)) {}

  void fprop(const Problem& p, const View& input, const View& weight, const View& bias, const View& output,
             bool allow_tf32) const {
    run(cuda::Operator::kFprop, p, input, weight, allow_tf32,
        [&](const cuda::Context& context) { cuda::fprop(p, input, weight, bias, output, context); });
  }
  void dgrad(const Problem& p, const View& grad_output, const View& weight, const View& bias,
             const View& grad_input, bool allow_tf32) const {
    run(cuda::Operator::kDgrad, p, grad_output, weight, allow_tf32, [&](const cuda::Context& context) {
      cuda::dgrad(p, grad_output, weight, bias, grad_input, context);
    });
  }
  void wgrad(const Problem& p, const View& grad_output, const View& input, const View& grad_weight,
             bool allow_tf32) const {
    run(cuda::Operator::kWgrad, p, grad_output, input, allow_tf32,
        [&](const cuda::Context& context) { cuda::wgrad(p, grad_output, input, grad_weight, context); });
  }

 private:
  template <typename Launch>
  void run(cuda::Operator op, const Problem& p, const View& first, const View& second, bool allow_tf32,
           const Launch& launch) const {
    const size_t size = cuda::workspace_size(op, p, first, second, allow_tf32);
    std::optional<Tensor> workspace;
    if (size > 0) workspace = new_workspace(size, device_index_);
    launch({stream_, workspace ? workspace->mutable_data_ptr() : nullptr, allow_tf32});
  }

  int32_t device_index_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symconv_ext, CUDA, library) {
  library.impl("fprop", TORCH_BOX(&Operators<Cuda>::fprop));
  library.impl("fprop_no_grad", TORCH_BOX(&Operators<Cuda>::fprop_no_grad));
  library.impl("fprop_backward", TORCH_BOX(&Operators<Cuda>::fprop_backward));
  library.impl("dgrad", TORCH_BOX(&Operators<Cuda>::dgrad));
  library.impl("dgrad_no_grad", TORCH_BOX(&Operators<Cuda>::dgrad_no_grad));
  library.impl("dgrad_backward", TORCH_BOX(&Operators<Cuda>::dgrad_backward));
  library.impl("wgrad", TORCH_BOX(&Operators<Cuda>::wgrad));
  library.impl("wgrad_no_grad", TORCH_BOX(&Operators<Cuda>::wgrad_no_grad));
}

}  // namespace symconv::binding
