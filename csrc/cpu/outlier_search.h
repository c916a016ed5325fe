// DivPrune's first pick: the row whose nearest other row is farthest, the top distance outlier (Bay & Schwabacher
// 2003).
//
// A lower bound on every row's similarity to its nearest row bounds its score from above; a row is alive while that
// bound beats the best score known. The rows with the best bounds are compared with the others alive, a block at a
// time, which tightens the bounds of both sides; those of the block that survive are compared with all the rest too,
// which makes their scores exact. No two rows are compared twice, so at worst this is one symmetric pass over all
// pairs.
#pragma once

#include "../common/order.h"
#include "block.h"

namespace tokenprune::cpu {

template <class T, class Score>
class OutlierSearch {
 public:
  // item.running_maximum holds lower bounds of the finite rows; score(i, nearest) is the score of a row.
  OutlierSearch(Item<T>& item, const Score& score, std::int64_t block_size, int threads)
      : score_(score),
        bound_(item.running_maximum),
        block_(item, block_size, threads),
        matrix_(block_.capacity() * block_.capacity()),
        nearest_(threads * block_.capacity()) {
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::candidate) alive_.push_back(i);
  }

  // The key of the top outlier; kNoKey if no row is finite.
  template <class Parallel>
  Key run(Parallel& parallel) {
    while (!alive_.empty()) {
      take_block(parallel);
      compare_within_block(parallel);
      compare(alive_, block_.columns(), parallel);
      std::vector<std::int32_t> survivors;
      for (std::int64_t a = 0; a < block_.size(); ++a)
        if (is_alive(block_.row(a))) survivors.push_back(a);
      compare(dead_, {survivors.data(), static_cast<std::int64_t>(survivors.size())}, parallel);
      for (const std::int32_t a : survivors) best_ = std::min(best_, key(block_.row(a)), comes_before);
      bury();
    }
    return best_;
  }

 private:
  Key key(std::int64_t i) const { return {score_(i, bound_[i]), i}; }
  bool is_alive(std::int64_t i) const { return best_.index == kNoKey.index || comes_before(key(i), best_); }

  // Moves the rows with the best bounds into the block.
  template <class Parallel>
  void take_block(Parallel& parallel) {
    std::vector<Key> keys;
    for (const std::int64_t i : alive_) keys.push_back(key(i));
    const auto last = keys.begin() + std::min<std::int64_t>(block_.capacity(), keys.size()) - 1;
    std::nth_element(keys.begin(), last, keys.end(), comes_before);
    const auto end = std::stable_partition(alive_.begin(), alive_.end(),
                                           [&](std::int64_t i) { return !comes_before(*last, key(i)); });
    block_.clear();
    block_.append({alive_.begin(), end}, parallel);
    alive_.erase(alive_.begin(), end);
  }

  template <class Parallel>
  void compare_within_block(Parallel& parallel) {
    block_.gram(matrix_.data(), parallel);
    for (std::int64_t a = 0; a < block_.size(); ++a)
      for (std::int64_t b = 0; b < block_.size(); ++b)
        if (a != b) raise(bound_[block_.row(a)], matrix_[a * block_.capacity() + b]);
  }

  // Raises the bounds of `others` and of the block's rows at `columns`.
  template <class Parallel>
  void compare(const std::vector<std::int64_t>& others, Columns columns, Parallel& parallel) {
    if (columns.count == 0) return;
    std::fill(nearest_.begin(), nearest_.end(), -kInfinity);
    block_.similarities(
        others, [&](std::int64_t) { return columns; }, parallel,
        [&](std::int64_t i, const float* values, Columns part, int thread) {
          float* nearest = nearest_.data() + thread * block_.capacity();
          for (std::int64_t j = 0; j < part.count; ++j) {
            raise(bound_[i], values[j]);
            raise(nearest[part.positions[j]], values[j]);
          }
        });
    for (int thread = 0; thread < parallel.threads(); ++thread)
      for (std::int64_t a = 0; a < block_.size(); ++a)
        raise(bound_[block_.row(a)], nearest_[thread * block_.capacity() + a]);
  }

  // Moves the rows that are not alive any more.
  void bury() {
    const auto last = std::stable_partition(alive_.begin(), alive_.end(), [&](std::int64_t i) { return is_alive(i); });
    dead_.insert(dead_.end(), last, alive_.end());
    alive_.erase(last, alive_.end());
  }

  static void raise(float& maximum, float value) { maximum = std::max(maximum, value); }

  const Score& score_;
  std::vector<float>& bound_;
  Block<T> block_;
  std::vector<float> matrix_;
  std::vector<float> nearest_;       // of the block's rows, by thread
  std::vector<std::int64_t> alive_;  // rows that have not been in a block and may be the top outlier
  std::vector<std::int64_t> dead_;   // rows that have not been in a block and are not
  Key best_ = kNoKey;
};

}  // namespace tokenprune::cpu
