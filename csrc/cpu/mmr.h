// Maximal marginal relevance (Carbonell & Goldstein 1998): relevance against similarity to the selected rows.
#pragma once

#include "greedy.h"

namespace tokenprune::cpu {

// The similarities to the first pick come with the pass over the rows that makes the norms, if the pick is guessed.
struct FirstPickGuess {
  std::int64_t row = -1;
  std::vector<float> dot;

  // The finite weight that is largest; its row may still turn out not to be finite.
  FirstPickGuess(const float* weight, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i)
      if (std::isfinite(weight[i]) && (row < 0 || weight[i] > weight[row])) row = i;
  }
};

struct Mmr {
  const float* relevance;
  float relevance_weight;   // lam
  float redundancy_weight;  // 1 - lam
  const FirstPickGuess& guess;

  Mmr(const float* relevance, double lam, const FirstPickGuess& guess)
      : relevance(relevance),
        relevance_weight(static_cast<float>(lam)),
        redundancy_weight(static_cast<float>(1.0 - lam)),
        guess(guess) {}

  template <class T, class Parallel>
  Key first_pick(Item<T>& item, Parallel&) const {
    Key best = kNoKey;
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::candidate) best = std::min(best, {relevance[i], i}, comes_before);
    return best;
  }
  template <class T>
  bool take_in_first(Item<T>& item, std::int64_t first) const {
    if (first != guess.row || !item.products.one_order) return false;
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::candidate) item.running_maximum[i] = item.similarity_of(i, first, guess.dot[i]);
    return true;
  }
  float score(std::int64_t i, float running_maximum) const {
    return relevance_weight * relevance[i] - redundancy_weight * running_maximum;
  }
};

// An item prepared for MMR: weights are the importance or the relevance of its rows.
template <class T, class Parallel>
Item<T> prepare(const Rows<T>& rows, const float* weight, FirstPickGuess& guess, Parallel& parallel) {
  return prepare(rows, weight, parallel, [&](std::int64_t) { return guess.row; }, guess.dot);
}

template <class T, class Parallel>
void mmr(const Rows<T>& rows, const float* relevance, double lam, const Picks& picks, Parallel& parallel) {
  FirstPickGuess guess(relevance, rows.count);
  Item<T> item = prepare(rows, relevance, guess, parallel);
  greedy(item, Mmr(relevance, lam, guess), picks, parallel);
}

}  // namespace tokenprune::cpu
