// torch's thread pool as the CPU kernels take it.
#pragma once

#include <atomic>
#include <exception>
#include <functional>

#include "tensor.h"

namespace symconv::binding {

// Runs body(begin, end) over pieces of [0, n) on torch's threads, as many as torch.set_num_threads says. An
// exception must not leave a worker thread, which would end the process: the first one is kept and thrown
// again from the calling thread, when all pieces are done.
inline void run_in_parallel(int64_t n, const std::function<void(int64_t, int64_t)>& body) {
  std::exception_ptr first;
  std::atomic_flag taken = ATOMIC_FLAG_INIT;
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      if (!taken.test_and_set()) first = std::current_exception();
    }
  });
  if (first) std::rethrow_exception(first);
}

}  // namespace symconv::binding
