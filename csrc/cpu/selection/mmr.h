// Maximal marginal relevance (Carbonell & Goldstein 1998). A row's score is lam * its relevance - (1 - lam) * its
// largest similarity to a pick.
#pragma once

#include <algorithm>
#include <optional>

#include "first_pick.h"
#include "lazy_greedy.h"
#include "running_maximum.h"

namespace tokenprune::cpu {

class Mmr : public RunningMaximum {
 public:
  Mmr(std::int64_t count, const float* relevance, double lam, const FusedFirstDots& first_dots)
      : RunningMaximum(count),
        relevance_(relevance),
        relevance_weight_(static_cast<float>(lam)),
        redundancy_weight_(static_cast<float>(1.0 - lam)),
        first_dots_(first_dots) {}

  template <class T>
  Key first_pick(const Item<T>& item, const Parallel&) const {
    Key best = kNoKey;
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::finite) best = std::min(best, {relevance_[i], i}, comes_before);
    return best;
  }

  template <class T>
  std::optional<float> similarity_to_first(const Item<T>& item, std::int64_t i, std::int64_t first) const {
    return first_dots_.similarity_to_first(item, i, first);
  }

  float score(std::int64_t i) const { return relevance_weight_ * relevance_[i] - redundancy_weight_ * maximum(i); }

 private:
  const float* relevance_;
  float relevance_weight_;   // lam
  float redundancy_weight_;  // 1 - lam
  const FusedFirstDots& first_dots_;
};

// When relevance dominates, few rows miss many picks, and signatures do not pay. The limits are measured.
template <class T>
bool mmr_wants_signatures(const Rows<T>& rows, std::int64_t k, double lam) {
  return lam <= 0.25 && k >= 128 && wants_signatures(rows, k);
}

template <class T>
void mmr(const Rows<T>& rows, const float* relevance, double lam, const Picks& picks, const Parallel& parallel) {
  auto [item, first_dots] = prepare_with_first_dots(
      rows, relevance, mmr_wants_signatures(rows, std::ssize(picks.initial) + picks.k, lam), parallel);
  Mmr policy(rows.count, relevance, lam, first_dots);
  lazy_greedy(item, policy, picks, parallel);
}

}  // namespace tokenprune::cpu
