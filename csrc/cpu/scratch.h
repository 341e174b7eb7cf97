// Workspace of one thread: aligned buffers that grow to what was needed and are kept for the next call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace symconv::cpu {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }

  // `count` elements, aligned to 64 bytes, valid until the next call: zeros, or what was left in them.
  template <typename T>
  T* get(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    if (bytes > size_) {
      std::free(std::exchange(data_, nullptr));
      size_ = 0;
      data_ = std::aligned_alloc(64, bytes);
      if (!data_) throw std::bad_alloc();
      // What was never computed may still be read into lanes that nobody uses; as denormal numbers it would
      // cost a hundred times the time of an ordinary one.
      std::memset(data_, 0, bytes);
      size_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace symconv::cpu
