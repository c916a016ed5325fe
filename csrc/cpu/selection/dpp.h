// Greedy MAP inference for a determinantal point process (Chen et al., NeurIPS 2018) with the kernel matrix
// L_ij = relevance_i * similarity_ij * relevance_j.
//
// A row's score is its gain, det(L_{S+i}) / det(L_S) for the picks S. It is the square of the pivot that the row would
// add to the Cholesky factor of L_S.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "first_pick.h"
#include "lazy_greedy.h"

namespace tokenprune::cpu {

// Returns exactly 1 if the norm is not clamped.
template <class T>
float self_similarity(const Item<T>& item, std::int64_t i) {
  if (item.reciprocal_norm[i] < 1.0f / 1e-12f) return 1.0f;
  return item.similarity_of(i, i, item.dot_of_row(i, i));
}

// Relevance times the power of two that brings the largest L_ii near 1. The scaling is exact, and no square overflows.
struct ScaledRelevance {
  std::vector<float> value;            // relevance * 2^exponent, 0 for rows with self-similarity 0
  std::vector<float> kernel_diagonal;  // L_ii of the scaled relevance
  int exponent = 0;

  template <class T>
  ScaledRelevance(const float* relevance, const Item<T>& item)
      : value(item.rows.count, 0.0f), kernel_diagonal(item.rows.count) {
    std::vector<float> similarity(item.rows.count, 0.0f);  // of each row to itself
    double largest = 0.0;
    for (std::int64_t i = 0; i < item.rows.count; ++i) {
      if (item.state[i] != RowState::finite) continue;
      similarity[i] = self_similarity(item, i);
      // A row without self-similarity has no gain, but its relevance may be far larger than all others.
      if (similarity[i] > 0.0f) value[i] = relevance[i];
      largest = std::max(largest, value[i] * std::sqrt(static_cast<double>(similarity[i])));
    }
    if (largest > 0.0) exponent = -std::ilogb(largest);
    for (std::int64_t i = 0; i < item.rows.count; ++i) {
      value[i] = std::ldexp(value[i], exponent);
      kernel_diagonal[i] = value[i] * value[i] * similarity[i];
    }
  }
};

// Each row has its gain and its row of the Cholesky factor, up to the picks that it has seen.
//
// Coefficient j of row i is c_ij = (L_ij - sum over l < j of c_il * c_jl) / root_j. The sum is subtracted term by term
// in the order of the picks. So the bits are the same whether picks come one by one, in blocks, or among the
// candidates.
class Dpp {
 public:
  // A coefficient needs those of all picks before it.
  static constexpr bool kOrderIndependent = false;

  Dpp(const ScaledRelevance& relevance, std::int64_t k, const FusedFirstDots& first_dots,
      SubtractProducts subtract_products)
      : relevance_(relevance),
        first_dots_(first_dots),
        subtract_products_(subtract_products),
        capacity_(k),
        gain_(relevance.kernel_diagonal),
        threshold_(2e-5f * *std::max_element(gain_.begin(), gain_.end())),
        factor_(gain_.size() * k),
        pick_columns_(k * k) {}

  template <class T>
  Key first_pick(const Item<T>& item, const Parallel&) const {
    Key best = kNoKey;
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::finite) best = std::min(best, {score(i), i}, comes_before);
    return best;
  }

  template <class T>
  std::optional<float> similarity_to_first(const Item<T>& item, std::int64_t i, std::int64_t first) const {
    return first_dots_.similarity_to_first(item, i, first);
  }

  // A gain below the threshold is rounding error and counts as 0.
  float score(std::int64_t i) const { return gain_[i] < threshold_ ? 0.0f : gain_[i]; }

  // Gains only fall, so once the best gain is 0, all stay 0.
  bool exhausted(Key best) const { return best.score == 0.0f; }

  float reported(float score) const { return std::ldexp(score, -2 * relevance_.exponent); }

  void start(Key first) { add_pick(first.index); }

  void update(std::int64_t i, const float* similarities, std::int64_t first, std::int64_t count) {
    float* row = factor_.data() + i * capacity_;
    float* values = row + first;
    for (std::int64_t j = 0; j < count; ++j) values[j] = kernel(i, pick_rows_[first + j], similarities[j]);
    subtract_products_(values, count, row, 1, pick_columns_.data() + first, capacity_, first);
    for (std::int64_t j = 0; j < count; ++j) {
      values[j] /= pick_roots_[first + j];
      gain_[i] -= values[j] * values[j];
      const float* column = pick_columns_.data() + (first + j) * capacity_ + first;
      for (std::int64_t later = j + 1; later < count; ++later) values[later] -= values[j] * column[later];
    }
  }

  // Transposes the candidates' coefficients, so that those of one pick are adjacent until close.
  void open(const std::vector<std::int64_t>& rows) {
    opened_at_ = picks();
    candidates_.resize(rows.size() * capacity_);
    values_.resize(rows.size());
    for (std::size_t a = 0; a < rows.size(); ++a)
      for (std::int64_t l = 0; l < opened_at_; ++l) candidates_[l * rows.size() + a] = factor_[rows[a] * capacity_ + l];
  }

  void pick_candidate(const std::vector<std::int64_t>& rows, std::int64_t position, const float* similarities) {
    const std::int64_t pick = picks(), count = rows.size();
    for (std::int64_t l = 0; l < pick; ++l) pick_columns_[l * capacity_ + pick] = candidates_[l * count + position];
    add_pick(rows[position]);
    for (std::int64_t a = 0; a < count; ++a) values_[a] = kernel(rows[a], rows[position], similarities[a]);
    subtract_products_(values_.data(), count, candidates_.data() + position, count, candidates_.data(), count, pick);
    for (std::int64_t a = 0; a < count; ++a) {
      const float coefficient = values_[a] / pick_roots_[pick];
      candidates_[pick * count + a] = coefficient;
      gain_[rows[a]] -= coefficient * coefficient;
    }
  }

  void close(const std::vector<std::int64_t>& rows) {
    for (std::size_t a = 0; a < rows.size(); ++a)
      for (std::int64_t l = opened_at_; l < picks(); ++l)
        factor_[rows[a] * capacity_ + l] = candidates_[l * rows.size() + a];
  }

 private:
  std::int64_t picks() const { return pick_rows_.size(); }

  // Multiplies the two relevances first, so that the kernel is symmetric in i and j.
  float kernel(std::int64_t i, std::int64_t j, float similarity) const {
    return similarity * (relevance_.value[i] * relevance_.value[j]);
  }

  void add_pick(std::int64_t row) {
    pick_rows_.push_back(row);
    pick_roots_.push_back(std::sqrt(gain_[row]));
  }

  const ScaledRelevance& relevance_;
  const FusedFirstDots& first_dots_;
  const SubtractProducts subtract_products_;
  std::int64_t capacity_;
  std::vector<float> gain_;
  float threshold_;
  Buffer<float> factor_;        // [rows, picks]: coefficients, written up to the picks that a row has seen
  Buffer<float> pick_columns_;  // [picks, picks]: coefficients of the picks, transposed
  std::vector<std::int64_t> pick_rows_;
  std::vector<float> pick_roots_;  // the square root of each pick's gain when it was picked
  std::vector<float> candidates_;  // [picks, candidates]: coefficients of the candidates
  std::vector<float> values_;
  std::int64_t opened_at_ = 0;
};

template <class T>
void dpp(const Rows<T>& rows, const float* relevance, const Picks& picks, const Parallel& parallel) {
  auto [item, first_dots] = prepare_with_first_dots(rows, relevance, /*with_signatures=*/false, parallel);
  const ScaledRelevance scaled(relevance, item);
  Dpp policy(scaled, picks.k, first_dots, item.kernels.subtract_products);
  lazy_greedy(item, policy, picks, parallel);
}

}  // namespace tokenprune::cpu
