// Fibers: stacks, the stack switch, and the sanitizers' annotations.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(SYMCONV_EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(SYMCONV_EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_ignore_thread_begin();
extern "C" void __tsan_ignore_thread_end();
#endif

#if !defined(__x86_64__)
#error "the emulator's stack switch is written for x86-64"
#endif

namespace symconv::emulator {

// Saves the callee-saved registers on the running stack and its pointer in *save, then does the reverse from
// `load`.
extern "C" void symconv_switch_stack(void** save, void* load);
asm(R"(
.text
.globl symconv_switch_stack
.type symconv_switch_stack, @function
symconv_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size symconv_switch_stack, .-symconv_switch_stack
)");

namespace {

Fiber* g_switching_from = nullptr;
Fiber* g_switching_to = nullptr;

void finish_switch(Fiber& arrived) {
#if defined(SYMCONV_EMULATOR_ASAN)
  const void* bottom = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(arrived.asan_fake_stack, &bottom, &size);
  if (g_switching_from->stack_size ==
      0) {  // the first switch away from the caller's stack tells where that is
    g_switching_from->stack = const_cast<char*>(static_cast<const char*>(bottom));
    g_switching_from->stack_size = size;
  }
#else
  (void)arrived;
#endif
}

[[noreturn]] void start() {
  Fiber* self = g_switching_to;
  finish_switch(*self);
  self->entry(self->argument);
  __builtin_trap();
}

}  // namespace

void fiber_allocate(Fiber& fiber, size_t stack_size) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  stack_size = (stack_size + page - 1) / page * page;
  void* memory = mmap(nullptr, stack_size + page, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, page, PROT_NONE);
  fiber.stack = static_cast<char*>(memory) + page;
  fiber.stack_size = stack_size;
}

void fiber_free(Fiber& fiber) {
#if defined(SYMCONV_EMULATOR_TSAN)
  if (fiber.tsan_fiber) __tsan_destroy_fiber(fiber.tsan_fiber);
#endif
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  if (fiber.stack) munmap(fiber.stack - page, fiber.stack_size + page);
  fiber = Fiber();
}

void fiber_prepare(Fiber& fiber, void (*entry)(void*), void* argument) {
#if defined(SYMCONV_EMULATOR_ASAN)
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_size);
#endif
#if defined(SYMCONV_EMULATOR_TSAN)
  // A new context each time, so that two blocks that reuse a stack are not taken for one thread.
  if (fiber.tsan_fiber) __tsan_destroy_fiber(fiber.tsan_fiber);
  fiber.tsan_fiber = __tsan_create_fiber(0);
#endif
  fiber.asan_fake_stack = nullptr;
  fiber.entry = entry;
  fiber.argument = argument;
  // Six registers and the return address that symconv_switch_stack pops, then the slot of the return address
  // of a "call" of start().
  uintptr_t top = reinterpret_cast<uintptr_t>(fiber.stack) + fiber.stack_size;
  top &= ~static_cast<uintptr_t>(15);
  void** frame = reinterpret_cast<void**>(top - 8 * sizeof(void*));
  for (int i = 0; i < 6; ++i) frame[i] = nullptr;
  frame[6] = reinterpret_cast<void*>(&start);
  frame[7] = nullptr;  // where start() would return to
  fiber.stack_pointer = frame;
}

void fiber_adopt(Fiber& self) {
  self = Fiber();
#if defined(SYMCONV_EMULATOR_TSAN)
  self.tsan_fiber = __tsan_get_current_fiber();
#endif
}

void fiber_switch(Fiber& from, Fiber& to) {
  g_switching_from = &from;
  g_switching_to = &to;
#if defined(SYMCONV_EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(&from.asan_fake_stack, to.stack, to.stack_size);
#endif
#if defined(SYMCONV_EMULATOR_TSAN)
  __tsan_switch_to_fiber(to.tsan_fiber, 1);  // 1: no synchronisation
#endif
  symconv_switch_stack(&from.stack_pointer, to.stack_pointer);
  finish_switch(from);
}

void order_release(void* token) {
#if defined(SYMCONV_EMULATOR_TSAN)
  __tsan_release(token);
#else
  (void)token;
#endif
}

void order_acquire(void* token) {
#if defined(SYMCONV_EMULATOR_TSAN)
  __tsan_acquire(token);
#else
  (void)token;
#endif
}

#if defined(SYMCONV_EMULATOR_TSAN)
Unobserved::Unobserved() { __tsan_ignore_thread_begin(); }
Unobserved::~Unobserved() { __tsan_ignore_thread_end(); }
#else
Unobserved::Unobserved() {}
Unobserved::~Unobserved() {}
#endif

}  // namespace symconv::emulator
