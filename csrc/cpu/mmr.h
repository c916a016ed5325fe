// Maximal marginal relevance (Carbonell & Goldstein 1998): relevance against similarity to the selected rows.
#pragma once

#include "greedy.h"

namespace tokenprune::cpu {

struct Mmr {
  const float* relevance;
  float relevance_weight;   // lam
  float redundancy_weight;  // 1 - lam

  Mmr(const float* relevance, double lam)
      : relevance(relevance),
        relevance_weight(static_cast<float>(lam)),
        redundancy_weight(static_cast<float>(1.0 - lam)) {}

  template <class T, class Parallel>
  void prepare_first_pick(Item<T>&, Parallel&) const {}
  float first_score(std::int64_t i, float) const { return relevance[i]; }
  float score(std::int64_t i, float running_maximum) const {
    return relevance_weight * relevance[i] - redundancy_weight * running_maximum;
  }
};

template <class T, class Parallel>
void mmr(const Rows<T>& rows, const float* relevance, double lam, std::int64_t k, std::int64_t offset,
         std::int64_t* indices, float* scores, Parallel& parallel) {
  Item<T> item = prepare(rows, relevance, parallel);
  greedy(item, Mmr(relevance, lam), k, offset, indices, scores, parallel);
}

}  // namespace tokenprune::cpu
