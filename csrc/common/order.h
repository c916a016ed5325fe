// The order of the contract on picks: the larger score first, then the lower index.
#pragma once

#include <cstdint>
#include <limits>

namespace tokenprune {

struct Key {
  float score;
  std::int64_t index;
};

// Loses to every row, a non-finite one (score -inf) included.
constexpr Key kNoKey{-std::numeric_limits<float>::infinity(), std::numeric_limits<std::int64_t>::max()};

// A float comparison, not a bitwise one: -0.0 equals 0.0.
constexpr bool comes_before(Key a, Key b) { return a.score > b.score || (a.score == b.score && a.index < b.index); }

}  // namespace tokenprune
