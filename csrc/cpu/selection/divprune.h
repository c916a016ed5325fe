// DivPrune (Alvar et al., CVPR 2025): max-min diversity. A row's score is its cosine distance to the nearest pick.
#pragma once

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "first_pick.h"
#include "lazy_greedy.h"
#include "running_maximum.h"

namespace tokenprune::cpu {

class DivPrune : public RunningMaximum {
 public:
  // next_row_dots[i] is the dot product of rows i and i + 1 by Kernels::of_row.
  DivPrune(std::int64_t count, std::vector<float> next_row_dots)
      : RunningMaximum(count), next_row_dots_(std::move(next_row_dots)) {}

  template <class T>
  Key first_pick(const Item<T>& item, const Parallel& parallel) {
    const std::vector<Key> outlier = outliers(item, 1, parallel);
    return outlier.empty() ? kNoKey : outlier[0];
  }

  // Returns the keys of the rows whose nearest other rows are farthest, `wanted` of them if so many are finite.
  template <class T>
  std::vector<Key> outliers(const Item<T>& item, std::int64_t wanted, const Parallel& parallel) {
    // Neighbouring patches are often similar, so their similarities are good bounds to start the search with.
    std::vector<float> nearest(item.rows.count, -kInfinity);
    for (std::int64_t i = 0; i + 1 < item.rows.count; ++i) {
      if (item.state[i] != RowState::finite || item.state[i + 1] != RowState::finite) continue;
      const float value = item.similarity_lower_bound(i, i + 1, next_row_dots_[i]);
      nearest[i] = std::max(nearest[i], value);
      nearest[i + 1] = std::max(nearest[i + 1], value);
    }
    const auto score = [](float similarity) { return distance(similarity); };
    OutlierSearch search(item, std::move(nearest), score, wanted, block_sizes(item.rows), parallel.threads());
    const std::vector<Key> found = search.run(parallel);
    similarity_to_outlier_ = search.similarities_to_outlier();
    return found;
  }

  template <class T>
  std::optional<float> similarity_to_first(const Item<T>&, std::int64_t i, std::int64_t) const {
    if (similarity_to_outlier_.empty() || std::isnan(similarity_to_outlier_[i])) return std::nullopt;
    return similarity_to_outlier_[i];
  }

  float score(std::int64_t i) const { return distance(maximum(i)); }

 private:
  static float distance(float similarity) { return 1.0f - similarity; }

  std::vector<float> next_row_dots_;
  std::vector<float> similarity_to_outlier_;  // of each row, NaN if the search did not compute it; empty without one
};

template <class T>
Prepared<T> prepare_with_next_row_dots(const Rows<T>& rows, const Parallel& parallel) {
  const auto next_row = [&](std::int64_t i) { return i + 1 < rows.count ? i + 1 : kNoRow; };
  return prepare(rows, nullptr, next_row, wants_signatures(rows, rows.count), parallel);
}

// Returns the keys of the `wanted` top distance outliers. The first of them is DivPrune's first pick.
template <class T>
std::vector<Key> outliers(const Rows<T>& rows, std::int64_t wanted, const Parallel& parallel) {
  auto [item, next_row_dots] = prepare_with_next_row_dots(rows, parallel);
  return DivPrune(rows.count, std::move(next_row_dots)).outliers(item, wanted, parallel);
}

template <class T>
void divprune(const Rows<T>& rows, const Picks& picks, const Parallel& parallel) {
  auto [item, next_row_dots] = prepare_with_next_row_dots(rows, parallel);
  DivPrune policy(rows.count, std::move(next_row_dots));
  lazy_greedy(item, policy, picks, parallel);
}

}  // namespace tokenprune::cpu
