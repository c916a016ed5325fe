// Rows packed for dot products with many other rows. The kernels that read a panel define its layout.
#pragma once

#include <cstdint>

#include "buffer.h"

namespace tokenprune::cpu {

// A layout may interleave the rows of a group. Groups are packed independently of each other.
constexpr std::int64_t kPanelGroup = 16;

template <class T>
class Panel {
 public:
  Panel(std::int64_t D, std::int64_t capacity)
      : D_(D),
        padded_D_(padded(D, kCacheLine)),
        capacity_(padded(capacity, kPanelGroup)),
        elements_(capacity_ * padded_D_) {}

  std::int64_t D() const { return D_; }
  std::int64_t padded_D() const { return padded_D_; }
  std::int64_t capacity() const { return capacity_; }
  T* data() { return elements_.data(); }
  const T* data() const { return elements_.data(); }

 private:
  static std::int64_t padded(std::int64_t count, std::int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
  }

  std::int64_t D_, padded_D_, capacity_;
  Buffer<T> elements_;
};

}  // namespace tokenprune::cpu
