// DivPrune (Alvar et al., CVPR 2025): max-min diversity. A score is the cosine distance to the nearest selected row.
#pragma once

#include "greedy.h"
#include "outlier_search.h"
#include "running_maximum.h"

namespace tokenprune::cpu {

struct DivPrune : RunningMaximum {
  std::vector<float> next_row_dot;
  std::vector<float> similarity_to_outlier;  // of each row, NaN where the search did not compute it

  template <class T, class Parallel>
  Key first_pick(Item<T>& item, const Parallel& parallel) {
    // Neighbours in a picture or a video are often alike.
    for (std::int64_t i = 0; i + 1 < item.rows.count; ++i) {
      if (item.state[i] != RowState::candidate || item.state[i + 1] != RowState::candidate) continue;
      const float value = item.similarity_lower_bound(i, i + 1, next_row_dot[i]);
      item.running_maximum[i] = std::max(item.running_maximum[i], value);
      item.running_maximum[i + 1] = std::max(item.running_maximum[i + 1], value);
    }
    const auto score_of = [](std::int64_t, float nearest) { return distance(nearest); };
    OutlierSearch search(item, score_of, block_sizes(item.rows), parallel.threads());
    const Key outlier = search.run(parallel);
    similarity_to_outlier = search.similarities_to_outlier();
    return outlier;
  }
  template <class T>
  std::optional<float> similarity_to_first(const Item<T>&, std::int64_t i, std::int64_t) const {
    return std::isnan(similarity_to_outlier[i]) ? std::nullopt : std::optional(similarity_to_outlier[i]);
  }
  template <class T>
  float score(const Item<T>& item, std::int64_t i) const {
    return distance(item.running_maximum[i]);
  }
  static float distance(float similarity) { return 1.0f - similarity; }
};

template <class T, class Parallel>
void divprune(const Rows<T>& rows, const Picks& picks, const Parallel& parallel) {
  DivPrune policy;
  const auto next_row = [&](std::int64_t i) { return i + 1 < rows.count ? i + 1 : -1; };
  Item<T> item = prepare(rows, nullptr, parallel, next_row, policy.next_row_dot, wants_signatures(rows, rows.count));
  greedy(item, policy, picks, parallel);
}

}  // namespace tokenprune::cpu
