// Greedy MAP inference for a determinantal point process (Chen et al., NeurIPS 2018) with the kernel
// L_ij = relevance_i * similarity_ij * relevance_j. A row's gain is what it multiplies the determinant of the picks'
// kernel by: the square of the pivot that it would add to their Cholesky factor.
#pragma once

#include "buffer.h"
#include "first_pick_guess.h"
#include "greedy.h"
#include "substitution.h"

namespace tokenprune::cpu {

// 1 without rounding where the norm is not below its floor.
template <class T>
float self_similarity(const Item<T>& item, std::int64_t i) {
  if (item.reciprocal_norm[i] < 1.0f / 1e-12f) return 1.0f;
  return item.similarity_of(i, i, item.dot_of_row(i, i));
}

// Relevances times the power of two that brings the largest kernel entry near 1: exact, and no square overflows. A row
// without similarity to itself is given none, since its own may be far larger than all that count.
struct ScaledRelevance {
  std::vector<float> value;
  std::vector<float> kernel_diagonal;  // L_ii of these
  int exponent = 0;                    // value = relevance * 2^exponent

  template <class T>
  ScaledRelevance(const float* relevance, const Item<T>& item)
      : value(item.rows.count, 0.0f), kernel_diagonal(item.rows.count) {
    std::vector<float> similarity(item.rows.count, 0.0f);  // of each row to itself
    double largest = 0.0;
    for (std::int64_t i = 0; i < item.rows.count; ++i) {
      if (item.state[i] != RowState::candidate) continue;
      similarity[i] = self_similarity(item, i);
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

// A row keeps its gain and its row of the Cholesky factor, as far as the picks that it has taken in.
//
// Coefficient j of row i is (L_ij - sum of c_il * c_jl over l < j) / root_j, the sum subtracted term by term in the
// order of the picks. Whether picks come one by one, in blocks, or among the candidates, the bits are the same.
class Dpp {
 public:
  static constexpr bool kAnyOrder = false;  // a coefficient needs those of all picks before

  Dpp(const ScaledRelevance& relevance, std::int64_t k, const FirstPickGuess& guess)
      : relevance_(relevance),
        guess_(guess),
        capacity_(k),
        gain_(relevance.kernel_diagonal),
        threshold_(2e-5f * *std::max_element(gain_.begin(), gain_.end())),
        factor_(gain_.size() * k),
        pick_columns_(k * k) {}

  template <class T, class Parallel>
  Key first_pick(Item<T>& item, Parallel&) const {
    Key best = kNoKey;
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::candidate) best = std::min(best, {score(item, i), i}, comes_before);
    return best;
  }
  template <class T>
  std::optional<float> similarity_to_first(const Item<T>& item, std::int64_t i, std::int64_t first) const {
    return guess_.similarity_to_first(item, i, first);
  }
  // Below the threshold, a gain is what rounding left of none.
  template <class T>
  float score(const Item<T>&, std::int64_t i) const {
    return gain_[i] < threshold_ ? 0.0f : gain_[i];
  }
  // No row has a gain any more, and gains only fall.
  bool exhausted(Key best) const { return best.score == 0.0f; }
  float reported(float score) const { return std::ldexp(score, -2 * relevance_.exponent); }

  template <class T>
  void start(Item<T>&, Key first) {
    add_pick(first.index);
  }

  // Pick number `first` is the first that row i lacks.
  template <class T>
  void take_in(Item<T>&, std::int64_t i, const float* similarities, std::int64_t first, std::int64_t count) {
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

  // Candidates have taken in every pick. Their coefficients lie pick by pick until they are closed.
  template <class T>
  void open(const Item<T>&, const std::vector<std::int64_t>& rows) {
    opened_at_ = picks();
    candidates_.resize(rows.size() * capacity_);
    values_.resize(rows.size());
    for (std::size_t a = 0; a < rows.size(); ++a)
      for (std::int64_t l = 0; l < opened_at_; ++l) candidates_[l * rows.size() + a] = factor_[rows[a] * capacity_ + l];
  }

  template <class T>
  void pick_candidate(Item<T>&, const std::vector<std::int64_t>& rows, std::int64_t position,
                      const float* similarities) {
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

  // Symmetric in i and j.
  float kernel(std::int64_t i, std::int64_t j, float similarity) const {
    return similarity * (relevance_.value[i] * relevance_.value[j]);
  }

  void add_pick(std::int64_t row) {
    pick_rows_.push_back(row);
    pick_roots_.push_back(std::sqrt(gain_[row]));
  }

  const ScaledRelevance& relevance_;
  const FirstPickGuess& guess_;
  const SubtractProducts subtract_products_ = subtract_products();
  std::int64_t capacity_;
  std::vector<float> gain_;
  float threshold_;
  Buffer<float> factor_;        // [rows, picks], written as far as a row has taken picks in
  Buffer<float> pick_columns_;  // [picks, picks]: the same of the picks, transposed
  std::vector<std::int64_t> pick_rows_;
  std::vector<float> pick_roots_;  // of their gains when they were picked
  std::vector<float> candidates_;  // [picks, candidates]
  std::vector<float> values_;
  std::int64_t opened_at_ = 0;
};

template <class T, class Parallel>
void dpp(const Rows<T>& rows, const float* relevance, const Picks& picks, const Parallel& parallel) {
  FirstPickGuess guess(relevance, rows.count);
  Item<T> item = prepare(rows, relevance, guess, parallel, /*with_signatures=*/false);
  const ScaledRelevance scaled(relevance, item);
  Dpp policy(scaled, picks.k, guess);
  greedy(item, policy, picks, parallel);
}

}  // namespace tokenprune::cpu
