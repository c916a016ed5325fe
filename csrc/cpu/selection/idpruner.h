// IDPruner (Tan et al., arXiv 2602.13315): MMR with importance, scaled to [0, 1] over the finite rows, as relevance.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "mmr.h"

namespace tokenprune::cpu {

// Rounds every operation to float32, so that relevance has the same bits on every backend.
template <class T>
std::vector<float> relevance_of(const float* importance, const Item<T>& item) {
  float minimum = kInfinity, maximum = -kInfinity;
  for (std::int64_t i = 0; i < item.rows.count; ++i) {
    if (item.state[i] != RowState::finite) continue;
    minimum = std::min(minimum, importance[i]);
    maximum = std::max(maximum, importance[i]);
  }
  std::vector<float> relevance(item.rows.count, 0.0f);
  const float range = maximum - minimum;
  if (!std::isfinite(range)) return relevance;
  const float scale = range + 1e-6f;
  for (std::int64_t i = 0; i < item.rows.count; ++i)
    if (item.state[i] == RowState::finite) relevance[i] = (importance[i] - minimum) / scale;
  return relevance;
}

template <class T>
void idpruner(const Rows<T>& rows, const float* importance, double lam, const Picks& picks, const Parallel& parallel) {
  auto [item, first_dots] = prepare_with_first_dots(
      rows, importance, mmr_wants_signatures(rows, std::ssize(picks.initial) + picks.k, lam), parallel);
  const std::vector<float> relevance = relevance_of(importance, item);
  Mmr policy(rows.count, relevance.data(), lam, first_dots);
  lazy_greedy(item, policy, picks, parallel);
}

}  // namespace tokenprune::cpu
