// The tokens of one item: `count` rows of `depth` elements, `stride` elements apart.
#pragma once

#include <cstdint>

namespace tokenprune::cpu {

template <class T>
struct Rows {
  const T* data;
  std::int64_t stride;
  std::int64_t count;
  std::int64_t depth;

  const T* row(std::int64_t i) const { return data + i * stride; }
};

}  // namespace tokenprune::cpu
