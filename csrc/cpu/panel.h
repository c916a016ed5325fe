// Rows gathered for products with many others. They lie chunk by chunk of their depth, so that what a product works on
// at a time is close together: rows of a power-of-two stride would compete for the same few cache sets.
#pragma once

#include <algorithm>
#include <cstdint>

#include "buffer.h"
#include "rows.h"

namespace tokenprune::cpu {

constexpr std::int64_t kChunk = 1024;

template <class T>
class Panel {
 public:
  Panel(std::int64_t depth, std::int64_t capacity)
      : depth_(depth),
        padded_depth_((depth + kPadding - 1) / kPadding * kPadding),
        capacity_(capacity),
        elements_(capacity * padded_depth_) {}

  std::int64_t depth() const { return depth_; }

  // Row number `position` from now on is a copy of `row`.
  void put(std::int64_t position, const T* row) {
    for (std::int64_t begin = 0; begin < depth_; begin += kChunk)
      std::copy_n(row + begin, std::min(kChunk, depth_ - begin), elements_.data() + offset(position, begin));
  }

  // The elements of a row from the start of a chunk, `begin`, up to its end.
  const T* chunk(std::int64_t position, std::int64_t begin) const { return elements_.data() + offset(position, begin); }

 private:
  static constexpr std::int64_t kPadding = kCacheLine / sizeof(T);

  std::int64_t offset(std::int64_t position, std::int64_t begin) const {
    return begin * capacity_ + position * std::min(kChunk, padded_depth_ - begin);
  }

  std::int64_t depth_, padded_depth_, capacity_;
  Buffer<T> elements_;
};

}  // namespace tokenprune::cpu
