// Fibers: user-level stacks that the emulator switches between, one for every CUDA thread of a resident
// block. AddressSanitizer and ThreadSanitizer are told of every switch.
#pragma once

#include <cstddef>

namespace symconv::emulator {

struct Fiber {
  void* stack_pointer = nullptr;  // where the fiber stopped; null for one that has not been started
  char* stack = nullptr;          // lowest usable byte; null for the thread that called the emulator
  size_t stack_size = 0;
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
};

// Gives the fiber a stack with a guard page below it.
void fiber_allocate(Fiber& fiber, size_t stack_size);
void fiber_free(Fiber& fiber);
// Prepares the fiber to call entry(argument) at its next switch; entry must never return. What the fiber ran
// before is abandoned.
void fiber_prepare(Fiber& fiber, void (*entry)(void*), void* argument);
// Makes `self` stand for the calling thread's own stack.
void fiber_adopt(Fiber& self);
// Continues `to`; returns when something switches back to `from`. No happens-before edge is implied.
void fiber_switch(Fiber& from, Fiber& to);

// Memory order that only barriers and launches give: everything before a release happens before what follows
// the acquire.
void order_release(void* token);
void order_acquire(void* token);

// While it lives, ThreadSanitizer does not look at what the running fiber does: for the emulator's own books.
class Unobserved {
 public:
  Unobserved();
  ~Unobserved();
};

}  // namespace symconv::emulator
