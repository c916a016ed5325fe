// DivPrune's first pick: the row whose nearest other row is farthest, the top distance outlier (Bay & Schwabacher
// 2003).
//
// A lower bound on every row's similarity to its nearest row bounds its score from above; a row is alive while that
// bound beats the best score known. The rows with the best bounds are compared with the others alive, a block at a
// time, which tightens the bounds of both sides; those of the block that survive are compared with all the rest too,
// which makes their scores exact. No two rows meet twice in blocks, so at worst this is one symmetric pass over all
// pairs. Between blocks, rows alive are compared with the two others that are most like them by signature, as long as
// that is the end of enough of them.
#pragma once

#include <numeric>

#include "../common/order.h"
#include "block.h"
#include "block_sizes.h"

namespace tokenprune::cpu {

template <class T, class Score>
class OutlierSearch {
 public:
  // item.running_maximum holds lower bounds of the finite rows; score(i, nearest) is the score of a row.
  OutlierSearch(Item<T>& item, const Score& score, BlockSizes sizes, int threads)
      : item_(item),
        score_(score),
        bound_(item.running_maximum),
        block_(item, sizes.outliers, threads),
        survivors_(item, sizes.outliers, threads),
        block_size_(std::max<std::int64_t>(1, block_.capacity() / (item.signature.empty() ? 8 : 16))),
        buried_size_(sizes.buried),
        matrix_(block_.capacity() * block_.capacity()),
        nearest_(threads * block_.capacity()),
        tried_(item.signature.size()),
        to_best_(item.rows.count, std::numeric_limits<float>::quiet_NaN()) {
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::candidate) alive_.push_back(i);
  }

  // The key of the top outlier; kNoKey if no row is finite.
  template <class Parallel>
  Key run(const Parallel& parallel) {
    while (!alive_.empty()) {
      take_block(parallel);
      compare_within_block(parallel);
      compare(alive_, block_, [](std::int64_t position) { return position; }, parallel);
      for (const std::int64_t position : compare_with_dead(parallel)) consider(position);
      bury();
      if (!look_ahead(parallel)) block_size_ = std::min(2 * block_size_, block_.capacity());
    }
    return best_;
  }

  // Of each row to the top outlier, NaN where it was not computed.
  const std::vector<float>& similarities_to_outlier() const { return to_best_; }

 private:
  Key key(std::int64_t i) const { return {score_(i, bound_[i]), i}; }
  bool is_alive(std::int64_t i) const { return best_.index == kNoKey.index || comes_before(key(i), best_); }

  // Compares the rows alive with the two others that are most like them by signature, while that shows of enough of
  // them that they are not the top outlier. Whether there was a row to try.
  template <class Parallel>
  bool look_ahead(const Parallel& parallel) {
    bool tried_any = false;
    while (const std::int64_t tries = rows_to_try()) {
      parallel(tries, grain(4 * item_.rows.count + 2 * kFetch * item_.rows.depth),
               [&](std::int64_t begin, std::int64_t end, int) {
                 for (std::int64_t number = begin; number < end; ++number) try_row(alive_[number]);
               });
      const std::int64_t before = alive_.size();
      bury();
      trust_.add(tries, before - alive_.size());
      tried_any = true;
    }
    return tried_any;
  }

  // Moves rows alive that have not been tried to the front; how many of them to try.
  std::int64_t rows_to_try() {
    if (item_.signature.empty()) return 0;
    const auto tried = std::stable_partition(alive_.begin(), alive_.end(), [&](std::int64_t i) { return !tried_[i]; });
    return trust_.tries(tried - alive_.begin());
  }

  void try_row(std::int64_t i) {
    tried_[i] = true;
    for (const std::int64_t other : most_alike_(item_.signature[i], item_.signature.data(), item_.rows.count, i)) {
      if (item_.state[other] != RowState::candidate) continue;
      raise(bound_[i], item_.similarity_lower_bound(i, other, item_.dot_of_row(i, other)));
      if (!is_alive(i)) return;
    }
  }

  // Moves the rows with the best bounds into the block.
  template <class Parallel>
  void take_block(const Parallel& parallel) {
    std::vector<Key> keys;
    for (const std::int64_t i : alive_) keys.push_back(key(i));
    const auto last = keys.begin() + std::min<std::int64_t>(block_size_, keys.size()) - 1;
    std::nth_element(keys.begin(), last, keys.end(), comes_before);
    const auto end = std::stable_partition(alive_.begin(), alive_.end(),
                                           [&](std::int64_t i) { return !comes_before(*last, key(i)); });
    block_.clear();
    block_.append({alive_.begin(), end}, parallel);
    alive_.erase(alive_.begin(), end);
    to_block_.assign(item_.rows.count * block_.size(), std::numeric_limits<float>::quiet_NaN());
  }

  template <class Parallel>
  void compare_within_block(const Parallel& parallel) {
    block_.gram(matrix_.data(), parallel);
    for (std::int64_t a = 0; a < block_.size(); ++a)
      for (std::int64_t b = 0; b < block_.size(); ++b) {
        if (a == b) continue;
        const float value = matrix_[a * block_.capacity() + b];
        raise(bound_[block_.row(a)], value);
        to_block(block_.row(a), b) = value;
      }
  }

  // The score of a row of the block is exact.
  void consider(std::int64_t position) {
    const Key key = this->key(block_.row(position));
    if (best_.index != kNoKey.index && !comes_before(key, best_)) return;
    best_ = key;
    for (std::int64_t i = 0; i < item_.rows.count; ++i) to_best_[i] = to_block(i, position);
  }

  float& to_block(std::int64_t i, std::int64_t position) { return to_block_[i * block_.size() + position]; }

  // Compares the block's rows that are alive with those that are not, some at a time; the positions of the survivors.
  template <class Parallel>
  std::vector<std::int64_t> compare_with_dead(const Parallel& parallel) {
    std::vector<std::int64_t> survivors(block_.size());
    std::iota(survivors.begin(), survivors.end(), 0);
    const auto keep_alive = [&] {
      survivors.erase(std::remove_if(survivors.begin(), survivors.end(),
                                     [&](std::int64_t position) { return !is_alive(block_.row(position)); }),
                      survivors.end());
    };
    keep_alive();
    const std::int64_t count = dead_.size();
    for (std::int64_t begin = 0; begin < count && !survivors.empty(); begin += buried_size_) {
      if (survivors_.size() != static_cast<std::int64_t>(survivors.size())) {
        std::vector<std::int64_t> rows;
        for (const std::int64_t position : survivors) rows.push_back(block_.row(position));
        survivors_.clear();
        survivors_.append(rows, parallel);
      }
      compare(
          {dead_.begin() + begin, dead_.begin() + std::min(begin + buried_size_, count)}, survivors_,
          [&](std::int64_t survivor) { return survivors[survivor]; }, parallel);
      keep_alive();
    }
    survivors_.clear();
    return survivors;
  }

  // Raises the bounds of `others` and of the rows of `block`; row number j of it is number position_of(j) of block_.
  template <class Parallel, class PositionOf>
  void compare(const std::vector<std::int64_t>& others, Block<T>& block, const PositionOf& position_of,
               const Parallel& parallel) {
    if (block.size() == 0) return;
    std::fill(nearest_.begin(), nearest_.end(), -kInfinity);
    block.similarities(
        others, [](std::int64_t) { return 0; }, kTileColumns, parallel,
        [&](std::int64_t i, const float* values, std::int64_t first, std::int64_t count, int thread) {
          float* nearest = nearest_.data() + thread * block.capacity() + first;
          for (std::int64_t j = 0; j < count; ++j) {
            raise(bound_[i], values[j]);
            raise(nearest[j], values[j]);
            to_block(i, position_of(first + j)) = values[j];
          }
          return true;
        });
    for (int thread = 0; thread < parallel.threads(); ++thread)
      for (std::int64_t a = 0; a < block.size(); ++a)
        raise(bound_[block.row(a)], nearest_[thread * block.capacity() + a]);
  }

  // Moves the rows that are not alive any more.
  void bury() {
    const auto last = std::stable_partition(alive_.begin(), alive_.end(), [&](std::int64_t i) { return is_alive(i); });
    dead_.insert(dead_.end(), last, alive_.end());
    alive_.erase(last, alive_.end());
  }

  static void raise(float& maximum, float value) { maximum = std::max(maximum, value); }

  const Item<T>& item_;
  const Score& score_;
  std::vector<float>& bound_;
  Block<T> block_;
  Block<T> survivors_;  // those rows of the block that are alive after its comparison with the others alive
  // Of the next block: few rows are enough where a picture has an outlier, fewer where signatures rule out the rest,
  // and noise has none.
  std::int64_t block_size_;
  std::int64_t buried_size_;
  std::vector<float> matrix_;
  std::vector<float> nearest_;       // of the block's rows, by thread
  std::vector<std::int64_t> alive_;  // rows that have not been in a block and may be the top outlier
  std::vector<std::int64_t> dead_;   // rows that have not been in a block and are not
  std::vector<std::uint8_t> tried_;  // whether a row's signature has been looked at
  const MostAlike most_alike_ = most_alike();
  Trust trust_;
  std::vector<float> to_block_;  // [rows, block]: similarities, NaN where they were not computed
  Key best_ = kNoKey;
  std::vector<float> to_best_;  // a column of to_block_
};

}  // namespace tokenprune::cpu
