// Memory format and allocation of results: see result.h.
#include "result.h"

#include <dlfcn.h>

namespace symconv::binding {

bool suggests_channels_last(const Tensor& tensor) {
  const int64_t dims = tensor.dim();
  if (dims != 4 && dims != 5) return false;
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  if (strides[1] == 0) return false;
  int64_t span = 0;
  // Channels, then the spatial dimensions from the last to the first, then the batch.
  for (int64_t i = 0; i < dims; ++i) {
    const int64_t d = i == 0 ? 1 : i == dims - 1 ? 0 : dims - i;
    if (sizes[d] == 0 || strides[d] < span) return false;
    // Where every other dimension is 1, (N, 1, 1, 1) has equal strides in both formats: contiguous.
    if (d == 0 && span == strides[1]) return false;
    span = strides[d] * (sizes[d] > 1 ? sizes[d] : 1);
  }
  return true;
}

Tensor new_result(const Tensor& like, const Ints& sizes, bool channels_last) {
  const int64_t dims = static_cast<int64_t>(sizes.size());
  channels_last = channels_last && dims > 3;
  Ints strides(dims);
  int64_t elements = 1;
  for (int64_t i = 0; i < dims; ++i) {
    // From the innermost dimension to the batch.
    const int64_t d = i == dims - 1 ? 0 : !channels_last ? dims - 1 - i : i == 0 ? 1 : dims - i;
    strides[d] = elements;
    if (__builtin_mul_overflow(elements, sizes[d], &elements)) {
      fail("result: expected fewer than 2^63 elements, got size ", text(sizes));
    }
  }
  int32_t dtype = 0, device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(dims, sizes.data(), strides.data(), dtype, device_type, device_index,
                               &handle) != TORCH_SUCCESS) {
    fail("result: could not allocate a tensor of size ", text(sizes), " (", elements, " elements of ",
         like.element_size(), " bytes)", why_not_allocated());
  }
  return Tensor(handle);
}

Tensor new_numbers(const Tensor& like, int64_t count) {
  const int32_t dtype =
      like.scalar_type() == ScalarType::Double ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  int32_t device_type = 0, device_index = 0;
  const int64_t stride = 1;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(1, &count, &stride, dtype, device_type, device_index, &handle) !=
      TORCH_SUCCESS) {
    fail("packed: could not allocate ", count, " numbers", why_not_allocated());
  }
  return Tensor(handle);
}

std::string why_not_allocated() {
  // Not in the headers of the oldest torch that this is built against.
  void* symbol = dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace");
  const char* what = symbol == nullptr ? nullptr : reinterpret_cast<const char* (*)()>(symbol)();
  return what == nullptr ? "" : std::string(": ") + what;
}

}  // namespace symconv::binding
