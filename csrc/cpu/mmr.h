// Maximal marginal relevance (Carbonell & Goldstein 1998): relevance against similarity to the selected rows.
#pragma once

#include "first_pick_guess.h"
#include "greedy.h"
#include "running_maximum.h"

namespace tokenprune::cpu {

struct Mmr : RunningMaximum {
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
  std::optional<float> similarity_to_first(const Item<T>& item, std::int64_t i, std::int64_t first) const {
    return guess.similarity_to_first(item, i, first);
  }
  template <class T>
  float score(const Item<T>& item, std::int64_t i) const {
    return relevance_weight * relevance[i] - redundancy_weight * item.running_maximum[i];
  }
};

// Mostly relevance decides, so that few rows lack many picks. Measured, signatures pay where it counts for little.
template <class T>
bool mmr_wants_signatures(const Rows<T>& rows, std::int64_t k, double lam) {
  constexpr double kLittle = 0.25;
  constexpr std::int64_t kManyPicks = 128;
  return lam <= kLittle && k >= kManyPicks && wants_signatures(rows, k);
}

template <class T, class Parallel>
void mmr(const Rows<T>& rows, const float* relevance, double lam, const Picks& picks, const Parallel& parallel) {
  FirstPickGuess guess(relevance, rows.count);
  Item<T> item = prepare(rows, relevance, guess, parallel, mmr_wants_signatures(rows, picks.k, lam));
  Mmr policy(relevance, lam, guess);
  greedy(item, policy, picks, parallel);
}

}  // namespace tokenprune::cpu
