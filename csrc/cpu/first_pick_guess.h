// The similarities to the first pick come with the pass over the rows that makes the norms, if the pick is guessed.
#pragma once

#include <optional>

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

  // That of row i to the first pick, unless another was guessed.
  template <class T>
  std::optional<float> similarity_to_first(const Item<T>& item, std::int64_t i, std::int64_t first) const {
    if (first != row || !item.products.one_order) return std::nullopt;
    return item.similarity_of(i, first, dot[i]);
  }
};

// An item prepared for a selection that begins with the largest weight: the importance or the relevance of its rows.
template <class T, class Parallel>
Item<T> prepare(const Rows<T>& rows, const float* weight, FirstPickGuess& guess, const Parallel& parallel,
                bool with_signatures) {
  return prepare(rows, weight, parallel, [&](std::int64_t) { return guess.row; }, guess.dot, with_signatures);
}

}  // namespace tokenprune::cpu
