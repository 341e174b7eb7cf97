// The CPU entry points: the operators over csrc/cpu, on torch's threads.
#include <atomic>
#include <exception>

#include "../cpu/operators.h"
#include "operators.h"

namespace symconv::binding {
namespace {

// Runs `body` on torch's threads. An exception in a piece must not leave a worker thread: the first one is
// kept and thrown again from the calling thread.
void run_in_parallel(int64_t n, const std::function<void(int64_t, int64_t)>& body) {
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

// One call's view of the CPU; torch.set_num_threads holds.
class Cpu {
 public:
  using View = cpu::Tensor;

  explicit Cpu(const Tensor&)
      : threads_{static_cast<int>(torch::stable::get_num_threads()), run_in_parallel} {}

  // allow_tf32 means nothing here.
  void fprop(const Problem& p, const View& input, const View& weight, const View& bias, const View& output,
             bool) const {
    cpu::fprop(p, input, weight, bias, output, threads_);
  }
  void dgrad(const Problem& p, const View& grad_output, const View& weight, const View& bias,
             const View& grad_input, bool) const {
    cpu::dgrad(p, grad_output, weight, bias, grad_input, threads_);
  }
  void wgrad(const Problem& p, const View& grad_output, const View& input, const View& grad_weight,
             bool) const {
    cpu::wgrad(p, grad_output, input, grad_weight, threads_);
  }
  void mirror(const Problem& p, const View& weight, const View& dense) const {
    cpu::mirror(p, weight, dense, threads_);
  }

 private:
  cpu::Threads threads_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symconv_ext, CPU, library) {
  library.impl("fprop", TORCH_BOX(&Operators<Cpu>::fprop));
  library.impl("dgrad", TORCH_BOX(&Operators<Cpu>::dgrad));
  library.impl("wgrad", TORCH_BOX(&Operators<Cpu>::wgrad));
  library.impl("mirror", TORCH_BOX(&Operators<Cpu>::mirror));
}

}  // namespace symconv::binding
