// Device buffers with guard pages, range checks, and the fault handler.
#include "memory.h"

#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <new>
#include <sstream>
#include <stdexcept>

namespace symconv::emulator {
namespace {

constexpr unsigned char kPoison = 0xff;
constexpr unsigned char kMargin = 0xa5;

std::map<uintptr_t, size_t>& buffers() {
  static std::map<uintptr_t, size_t> live;
  return live;
}

#if !defined(SYMCONV_EMULATOR_ASAN) && !defined(SYMCONV_EMULATOR_TSAN)
#define SYMCONV_EMULATOR_FAULTS 1
struct sigaction g_old_segv, g_old_bus;
stack_t g_old_stack;
volatile uintptr_t g_fault_address;
alignas(16) char g_handler_stack[1 << 16];

[[noreturn]] void report_fault() {
  std::ostringstream text;
  text << "out-of-range access at address 0x" << std::hex << g_fault_address;
  for (const auto& [base, size] : buffers()) {
    if (g_fault_address >= base + size && g_fault_address < base + size + 4096) {
      text << ", " << std::dec << g_fault_address - base - size << " bytes past the end of a buffer of "
           << size << " bytes";
    }
  }
  fail(text.str(), Site{"the kernel", 0});
}

void on_fault(int signal_number, siginfo_t* info, void* context) {
  if (!in_kernel()) {  // not ours: let it fault again under the previous handler
    sigaction(signal_number, signal_number == SIGSEGV ? &g_old_segv : &g_old_bus, nullptr);
    return;
  }
  g_fault_address = reinterpret_cast<uintptr_t>(info->si_addr);
  auto* machine = &static_cast<ucontext_t*>(context)->uc_mcontext;
  uintptr_t top = static_cast<uintptr_t>(machine->gregs[REG_RSP]) - 256;  // below the red zone
  top &= ~static_cast<uintptr_t>(15);
  machine->gregs[REG_RSP] = static_cast<greg_t>(top - 8);  // as after a call
  machine->gregs[REG_RIP] = reinterpret_cast<greg_t>(&report_fault);
}
#endif

}  // namespace

DeviceBuffer::DeviceBuffer(size_t bytes, size_t alignment) : size_(bytes) {
#if defined(SYMCONV_EMULATOR_ASAN)
  // malloc gives 16 bytes of alignment; a smaller one is made by starting off it, which keeps the end exact.
  const size_t shift = alignment < 16 ? alignment : 0;
  mapping_ = static_cast<char*>(std::malloc(bytes + shift > 0 ? bytes + shift : 1));
  if (!mapping_) throw std::bad_alloc();
  data_ = mapping_ + shift;
#else
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t body = (bytes + 2 * alignment + page - 1) / page * page;
  mapping_size_ = body + page;
  void* memory = mmap(nullptr, mapping_size_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mapping_ = static_cast<char*>(memory);
  mprotect(mapping_ + body, page, PROT_NONE);
  uintptr_t start = reinterpret_cast<uintptr_t>(mapping_) + body - bytes;
  start = start / alignment * alignment;
  if (alignment < 16 && start % (2 * alignment) == 0) start -= alignment;
  data_ = reinterpret_cast<char*>(start);
  for (char* m = mapping_; m < data_; ++m) *m = static_cast<char>(kMargin);
  for (char* m = data_ + bytes; m < mapping_ + body; ++m) *m = static_cast<char>(kMargin);
#endif
  buffers()[reinterpret_cast<uintptr_t>(data_)] = size_;
}

DeviceBuffer::~DeviceBuffer() {
  buffers().erase(reinterpret_cast<uintptr_t>(data_));
#if defined(SYMCONV_EMULATOR_ASAN)
  std::free(mapping_);
#else
  munmap(mapping_, mapping_size_);
#endif
}

void DeviceBuffer::poison() {
  for (size_t i = 0; i < size_; ++i) data_[i] = static_cast<char>(kPoison);
}

void DeviceBuffer::check_margins() const {
#if !defined(SYMCONV_EMULATOR_ASAN)
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const char* end = mapping_ + mapping_size_ - page;
  auto intact = [](const char* from, const char* to) {
    for (; from < to; ++from)
      if (static_cast<unsigned char>(*from) != kMargin) return false;
    return true;
  };
  if (!intact(mapping_, data_)) throw std::runtime_error("a kernel wrote in front of a buffer");
  if (!intact(data_ + size_, end)) throw std::runtime_error("a kernel wrote past the end of a buffer");
#endif
}

void check_global(const void* pointer, size_t bytes, size_t alignment, const char* what, Site site) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (address % alignment != 0) {
    fail(std::string(what) + ": global address is not aligned to " + std::to_string(alignment) + " bytes",
         site);
  }
  auto after = buffers().upper_bound(address);
  if (after != buffers().begin()) {
    const auto& [base, size] = *--after;
    if (address + bytes <= base + size) return;
    if (address < base + size + 4096) {
      fail(std::string(what) + ": " + std::to_string(bytes) + " bytes at offset " +
               std::to_string(address - base) + " are out of range of a buffer of " + std::to_string(size) +
               " bytes",
           site);
    }
  }
  fail(std::string(what) + ": the address lies in no buffer", site);
}

FaultGuard::FaultGuard() {
#if defined(SYMCONV_EMULATOR_FAULTS)
  stack_t stack{};
  stack.ss_sp = g_handler_stack;
  stack.ss_size = sizeof(g_handler_stack);
  sigaltstack(&stack, &g_old_stack);
  struct sigaction action{};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, &g_old_segv);
  sigaction(SIGBUS, &action, &g_old_bus);
  installed_ = true;
#endif
}

FaultGuard::~FaultGuard() {
#if defined(SYMCONV_EMULATOR_FAULTS)
  if (installed_) {
    sigaction(SIGSEGV, &g_old_segv, nullptr);
    sigaction(SIGBUS, &g_old_bus, nullptr);
    sigaltstack(&g_old_stack, nullptr);
  }
#endif
}

}  // namespace symconv::emulator
