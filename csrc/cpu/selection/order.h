// The order in which the contract ranks rows: the higher score first, then the lower index.
#pragma once

#include <cstdint>
#include <limits>

namespace tokenprune::cpu {

struct Key {
  float score;
  std::int64_t index;
};

// Comes after every row, even after a non-finite one, whose score is -inf.
constexpr Key kNoKey{-std::numeric_limits<float>::infinity(), std::numeric_limits<std::int64_t>::max()};

// Compares floats, not their bits: -0.0 equals 0.0.
constexpr bool comes_before(Key a, Key b) { return a.score > b.score || (a.score == b.score && a.index < b.index); }

}  // namespace tokenprune::cpu
