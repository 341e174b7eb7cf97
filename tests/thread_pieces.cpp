// An operator for test_threads.py that runs a body on torch's threads, as the CPU kernels do.
#include "torch/threads.h"

namespace {

using symconv::binding::Tensor;

// Adds 1 to every element of `counts` (int64, contiguous) and throws in those pieces that hold an element at
// or after `first_bad`.
void count_pieces(const Tensor& counts, int64_t first_bad) {
  int64_t* values = static_cast<int64_t*>(counts.mutable_data_ptr());
  symconv::binding::run_in_parallel(counts.numel(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++values[i];
    if (end > first_bad) throw std::runtime_error("a piece failed");
  });
}

}  // namespace

STABLE_TORCH_LIBRARY(symconv_test_threads, library) {
  library.def("count_pieces(Tensor(a!) counts, int first_bad) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(symconv_test_threads, CPU, library) {
  library.impl("count_pieces", TORCH_BOX(&count_pieces));
}
