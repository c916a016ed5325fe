// The similarities to the first pick come with the pass over the rows that makes the norms, if the pick is guessed.
#pragma once

#include "item.h"

namespace tokenprune::cpu {

struct FirstPickGuess {
  std::int64_t row = -1;
  std::vector<float> dot;

  // The finite weight that is largest; its row may still turn out not to be finite.
  FirstPickGuess(const float* weight, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i)
      if (std::isfinite(weight[i]) && (row < 0 || weight[i] > weight[row])) row = i;
  }

  // Those of all rows with the first pick; null if another was guessed.
  const float* dot_products_with(std::int64_t first) const { return first == row ? dot.data() : nullptr; }
};

// An item prepared for a selection that begins with the largest weight: the importance or the relevance of its rows.
template <class T, class Parallel>
Item<T> prepare(const Rows<T>& rows, const float* weight, FirstPickGuess& guess, Parallel& parallel,
                bool with_signatures) {
  return prepare(rows, weight, parallel, [&](std::int64_t) { return guess.row; }, guess.dot, with_signatures);
}

}  // namespace tokenprune::cpu
