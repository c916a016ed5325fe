// DivPrune (Alvar et al., CVPR 2025): max-min diversity. A score is the cosine distance to the nearest selected row.
#pragma once

#include "greedy.h"

namespace tokenprune::cpu {

struct DivPrune {
  template <class T, class Parallel>
  void prepare_first_pick(Item<T>& item, Parallel& parallel) const {
    nearest_neighbours(item, parallel);
  }
  float first_score(std::int64_t i, float nearest) const { return score(i, nearest); }
  float score(std::int64_t, float running_maximum) const { return 1.0f - running_maximum; }
};

template <class T, class Parallel>
void divprune(const Rows<T>& rows, std::int64_t k, std::int64_t offset, std::int64_t* indices, float* scores,
              Parallel& parallel) {
  Item<T> item = prepare(rows, nullptr, parallel);
  greedy(item, DivPrune{}, k, offset, indices, scores, parallel);
}

}  // namespace tokenprune::cpu
