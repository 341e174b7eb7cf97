// The CPU entry points: the operators over csrc/cpu, on torch's threads.
#include "../cpu/operators.h"
#include "operators.h"
#include "threads.h"

namespace symconv::binding {
namespace {

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

  int64_t pack_elements(const Problem& p, cpu::DType dtype) const {
    return cpu::pack_elements(p, forward(p), dtype);
  }
  void pack(const Problem& p, const View& weight, void* packed) const {
    cpu::pack(p, forward(p), weight, packed, threads_);
  }
  bool fits(const Problem& p, cpu::DType dtype, const void* packed, int64_t elements) const {
    return cpu::fits(p, forward(p), packed, elements, dtype);
  }
  void forward_packed(const Problem& p, const View& input, const void* packed, const View& bias,
                      const View& output) const {
    const auto run = p.transposed ? cpu::dgrad_packed : cpu::fprop_packed;
    run(p, input, packed, bias, output, threads_);
  }

 private:
  static cpu::Pass forward(const Problem& p) { return p.transposed ? cpu::Pass::kDgrad : cpu::Pass::kFprop; }

  cpu::Threads threads_;
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(symconv_ext, CPU, library) {
  library.impl("fprop", TORCH_BOX(&Operators<Cpu>::fprop));
  library.impl("fprop_no_grad", TORCH_BOX(&Operators<Cpu>::fprop_no_grad));
  library.impl("fprop_backward", TORCH_BOX(&Operators<Cpu>::fprop_backward));
  library.impl("dgrad", TORCH_BOX(&Operators<Cpu>::dgrad));
  library.impl("dgrad_no_grad", TORCH_BOX(&Operators<Cpu>::dgrad_no_grad));
  library.impl("dgrad_backward", TORCH_BOX(&Operators<Cpu>::dgrad_backward));
  library.impl("wgrad", TORCH_BOX(&Operators<Cpu>::wgrad));
  library.impl("wgrad_no_grad", TORCH_BOX(&Operators<Cpu>::wgrad_no_grad));
  library.impl("mirror", TORCH_BOX(&Operators<Cpu>::mirror));
  library.impl("mirror_no_grad", TORCH_BOX(&Operators<Cpu>::mirror));
  library.impl("pack", TORCH_BOX(&Operators<Cpu>::pack));
  library.impl("fprop_packed", TORCH_BOX(&Operators<Cpu>::fprop_packed));
  library.impl("dgrad_packed", TORCH_BOX(&Operators<Cpu>::dgrad_packed));
}

}  // namespace symconv::binding
