// Device memory on loan from the host: buffers that end at a page that faults, known to the primitives' range
// checks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "scheduler.h"

namespace symconv::emulator {

// A zeroed or poisoned buffer whose last byte is followed by an inaccessible page (with AddressSanitizer: a
// heap block with its red zones). An `alignment` below 16 is what the first byte is aligned to, and to
// nothing more.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(size_t bytes, size_t alignment = 16);
  ~DeviceBuffer();
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  char* data() const { return data_; }
  size_t size() const { return size_; }
  void poison();
  // Throws if something was written in front of the buffer or between its end and the page.
  void check_margins() const;

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
  char* mapping_ = nullptr;
  size_t mapping_size_ = 0;
};

// Stops the kernel unless [pointer, pointer + bytes) lies in one live buffer and is aligned to `alignment`.
void check_global(const void* pointer, size_t bytes, size_t alignment, const char* what, Site site);

// Turns SIGSEGV and SIGBUS inside a kernel into a failed launch while it lives.
class FaultGuard {
 public:
  FaultGuard();
  ~FaultGuard();

 private:
  bool installed_ = false;
};

}  // namespace symconv::emulator
