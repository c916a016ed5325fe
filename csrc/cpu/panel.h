// Rows gathered for products with many others, in whatever layout the dot products that read them want.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "rows.h"

namespace tokenprune::cpu {

// Rows that a panel lays out together.
constexpr std::int64_t kPanelGroup = 16;

class Panel {
 public:
  // `element_bytes` is what an element takes in this layout.
  Panel(std::int64_t depth, std::int64_t capacity, std::int64_t element_bytes)
      : depth_(depth),
        padded_depth_(padded(depth, kCacheLine)),
        capacity_(padded(capacity, kPanelGroup)),
        bytes_(capacity_ * padded_depth_ * element_bytes) {}

  std::int64_t depth() const { return depth_; }
  std::int64_t padded_depth() const { return padded_depth_; }
  std::int64_t capacity() const { return capacity_; }

  template <class T>
  T* data() {
    return reinterpret_cast<T*>(bytes_.data());
  }
  template <class T>
  const T* data() const {
    return reinterpret_cast<const T*>(bytes_.data());
  }

 private:
  static std::int64_t padded(std::int64_t count, std::int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
  }

  std::int64_t depth_, padded_depth_, capacity_;
  Buffer<std::byte> bytes_;
};

}  // namespace tokenprune::cpu
