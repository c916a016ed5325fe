// The token rows of one item.
#pragma once

#include <cstdint>

namespace tokenprune::cpu {

// An index that no row has.
constexpr std::int64_t kNoRow = -1;

template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;  // elements between the starts of neighbouring rows
  std::int64_t count;
  std::int64_t D;  // elements of a row, adjacent in memory

  const T* row(std::int64_t i) const { return data + i * stride; }
};

}  // namespace tokenprune::cpu
