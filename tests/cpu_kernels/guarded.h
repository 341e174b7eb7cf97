// Buffers that notice when a kernel touches what is not its own: one side of each borders on a page that
// nobody may touch, what is only read can be frozen, and what is written is compared element by element.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

namespace symconv::test {

// Which end of a buffer borders on the forbidden page. At kEnd the first element has the alignment that the
// count gives it, which for a vector is any.
enum class Side { kBegin, kEnd };

template <typename T>
class Guarded {
 public:
  Guarded(int64_t count, Side side) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    usable_ = (count * sizeof(T) + page - 1) / page * page;
    size_ = usable_ + 2 * page;
    base_ =
        static_cast<char*>(mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED) {
      std::perror("mmap");
      std::abort();
    }
    first_ = base_ + page;
    protect(base_, page, PROT_NONE);
    protect(first_ + usable_, page, PROT_NONE);
    data_ = reinterpret_cast<T*>(side == Side::kBegin ? first_ : first_ + usable_ - count * sizeof(T));
  }
  Guarded(Guarded&& other) noexcept
      : count_(other.count_),
        usable_(other.usable_),
        size_(std::exchange(other.size_, 0)),
        base_(other.base_),
        first_(other.first_),
        data_(other.data_) {}
  Guarded& operator=(Guarded&&) = delete;
  ~Guarded() {
    if (size_ > 0) munmap(base_, size_);
  }

  T* data() const { return data_; }
  int64_t size() const { return count_; }
  T& operator[](int64_t i) const { return data_[i]; }
  // From now on only reading is allowed.
  void freeze() const { protect(first_, usable_, PROT_READ); }

 private:
  static void protect(char* start, size_t bytes, int rights) {
    if (bytes > 0 && mprotect(start, bytes, rights) != 0) {
      std::perror("mprotect");
      std::abort();
    }
  }

  int64_t count_;
  size_t usable_, size_;
  char* base_;
  char* first_;
  T* data_;
};

// What a buffer must hold after a kernel ran. Elements that nobody sets must keep the pattern that they had.
template <typename T>
class Expected {
 public:
  explicit Expected(int64_t count) : values_(count), rubbish_(count, false) {
    if (count > 0) std::memset(static_cast<void*>(values_.data()), 0xa5, count * sizeof(T));
  }

  int64_t size() const { return static_cast<int64_t>(values_.size()); }
  T& operator[](int64_t i) { return values_[i]; }
  // The kernel may leave anything there, unless it is set.
  void allow_rubbish(int64_t i) { rubbish_[i] = true; }
  void require(int64_t i, T value) {
    values_[i] = value;
    rubbish_[i] = false;
  }

  // Copies the starting pattern; call it before the values that the kernel computes are set.
  void prepare(const Guarded<T>& buffer) const {
    if (size() > 0) std::memcpy(static_cast<void*>(buffer.data()), values_.data(), size() * sizeof(T));
  }
  // Index of the first element that differs, or -1.
  int64_t difference(const Guarded<T>& buffer) const {
    for (int64_t i = 0; i < size(); ++i) {
      if (!rubbish_[i] && std::memcmp(&values_[i], &buffer[i], sizeof(T)) != 0) return i;
    }
    return -1;
  }

 private:
  std::vector<T> values_;
  std::vector<char> rubbish_;
};

}  // namespace symconv::test
