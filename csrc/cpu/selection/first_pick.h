// The first pick of each method. DivPrune searches for it. The other methods pick the row with the largest weight, so
// that the similarities to it can be computed early.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "block.h"
#include "block_sizes.h"
#include "order.h"
#include "signature_hit_rate.h"

namespace tokenprune::cpu {

// The dot products of all rows with the likely first pick, computed in the same pass over the rows as the norms.
struct FusedFirstDots {
  std::int64_t row;         // the likely first pick
  std::vector<float> dots;  // by Kernels::of_row

  // Returns the similarity of row i to the first pick, nothing if another row was guessed.
  template <class T>
  std::optional<float> similarity_to_first(const Item<T>& item, std::int64_t i, std::int64_t first) const {
    if (first != row || !item.kernels.same_summation_order) return std::nullopt;
    return item.similarity_of(i, first, dots[i]);
  }
};

template <class T>
struct PreparedWithFirstDots {
  Item<T> item;
  FusedFirstDots first_dots;
};

// Prepares an item for a method whose first pick is likely to be the row with the largest finite weight. Another row is
// picked if the elements of that row are not finite.
template <class T>
PreparedWithFirstDots<T> prepare_with_first_dots(const Rows<T>& rows, const float* weight, bool with_signatures,
                                                 const Parallel& parallel) {
  std::int64_t largest = kNoRow;
  for (std::int64_t i = 0; i < rows.count; ++i)
    if (std::isfinite(weight[i]) && (largest == kNoRow || weight[i] > weight[largest])) largest = i;
  auto [item, dots] = prepare(rows, weight, [=](std::int64_t) { return largest; }, with_signatures, parallel);
  return {std::move(item), {largest, std::move(dots)}};
}

// Finds the top distance outlier: the row whose nearest other row is farthest (Bay & Schwabacher 2003).
//
// A lower bound on a row's similarity to its nearest row gives an upper bound on its score. A row is active for as long
// as this upper bound beats the best score so far; a row that is no longer active is pruned. A step takes a block of
// the active rows with the highest upper bounds. It compares the block with itself and with the other active rows,
// which tightens the bounds of both sides. Rows of the block that are still active are then compared with the pruned
// rows too, which makes their scores exact. Blocks compare no pair of rows twice, so the worst case is one symmetric
// pass over all pairs.
//
// Between blocks, each active row is also compared with the two rows whose signatures match it best, for as long as
// this prunes a large enough share of the rows tried.
//
// Among many rows, those of a cluster meet too few of each other that way. So each row also remembers to which row of
// all blocks it is most similar. Rows that share it are a group, and now and then each active row is compared with some
// rows of its group.
template <class T, class Score>
class OutlierSearch {
 public:
  // `nearest` holds a lower bound on each finite row's similarity to its nearest row. score(nearest) is a row's score.
  // It finds the `wanted` top outliers.
  OutlierSearch(const Item<T>& item, std::vector<float> nearest, const Score& score, std::int64_t wanted,
                BlockSizes sizes, int threads)
      : item_(item),
        wanted_(wanted),
        score_(score),
        nearest_(std::move(nearest)),
        block_(item, sizes.outlier_block, threads),
        active_block_(item, sizes.outlier_block, threads),
        block_size_(std::max<std::int64_t>(1, block_.capacity() / (item.signature.empty() ? 8 : 16))),
        pruned_chunk_(sizes.pruned_chunk),
        matrix_(block_.capacity() * block_.capacity()),
        nearest_of_block_(threads * block_.capacity()),
        tried_(item.signature.size()),
        few_active_(sizes.grouped_rows / 4),
        group_(item.rows.count >= sizes.grouped_rows ? item.rows.count : 0, 0),
        to_leader_(group_.size(), -kInfinity),
        keeps_similarities_(item.rows.count * block_.capacity() <= kMostSimilarities),
        to_best_(item.rows.count, std::numeric_limits<float>::quiet_NaN()) {
    for (std::int64_t i = 0; i < item.rows.count; ++i)
      if (item.state[i] == RowState::finite) active_.push_back(i);
  }

  // Returns the keys of the top outliers, the first one first: fewer than wanted if there are fewer finite rows.
  const std::vector<Key>& run(const Parallel& parallel) {
    while (!active_.empty()) {
      take_block(parallel);
      compare_within_block(parallel);
      compare(active_, block_, [](std::int64_t position) { return position; }, parallel);
      for (const std::int64_t position : compare_with_pruned(parallel)) consider(position);
      prune();
      compare_within_groups(parallel);
      if (!try_nearest_by_signature(parallel)) block_size_ = std::min(2 * block_size_, block_.capacity());
    }
    return outliers_;
  }

  // Returns the similarity of each row to the top outlier, NaN where it was not computed.
  const std::vector<float>& similarities_to_outlier() const { return to_best_; }

 private:
  Key key(std::int64_t i) const { return {score_(nearest_[i]), i}; }
  bool is_active(std::int64_t i) const { return to_beat_.index == kNoKey.index || comes_before(key(i), to_beat_); }

  // Compares active rows with the two rows whose signatures match them best, while that prunes enough of them. Returns
  // whether there was a row to try.
  bool try_nearest_by_signature(const Parallel& parallel) {
    bool tried_any = false;
    while (const std::int64_t attempts = next_attempts()) {
      parallel(attempts, grain(4 * item_.rows.count + 2 * kLoadCost * item_.rows.D),
               [&](std::int64_t begin, std::int64_t end, int) {
                 for (std::int64_t number = begin; number < end; ++number) try_row(active_[number]);
               });
      const std::int64_t before = active_.size();
      prune();
      hit_rate_.add(attempts, before - active_.size());
      tried_any = true;
    }
    return tried_any;
  }

  // Moves the active rows that have not been tried to the front. Returns how many of them to try.
  std::int64_t next_attempts() {
    if (item_.signature.empty()) return 0;
    const auto end = std::stable_partition(active_.begin(), active_.end(), [&](std::int64_t i) { return !tried_[i]; });
    return hit_rate_.attempts(end - active_.begin());
  }

  void try_row(std::int64_t i) {
    tried_[i] = true;
    for (const std::int64_t other :
         item_.kernels.most_alike(item_.signature[i], item_.signature.data(), item_.rows.count, i)) {
      if (item_.state[other] != RowState::finite) continue;
      raise(nearest_[i], item_.similarity_lower_bound(i, other, item_.dot_of_row(i, other)));
      if (!is_active(i)) return;
    }
  }

  // Moves the active rows with the highest bounds into the block.
  void take_block(const Parallel& parallel) {
    std::vector<Key> keys;
    for (const std::int64_t i : active_) keys.push_back(key(i));
    const auto last = keys.begin() + std::min<std::int64_t>(block_size_, keys.size()) - 1;
    std::nth_element(keys.begin(), last, keys.end(), comes_before);
    const auto end = std::stable_partition(active_.begin(), active_.end(),
                                           [&](std::int64_t i) { return !comes_before(*last, key(i)); });
    block_.clear();
    block_.append({active_.begin(), end}, parallel);
    active_.erase(active_.begin(), end);
    leaders_ += block_.size();
    if (keeps_similarities_)
      to_block_.assign(item_.rows.count * block_.size(), std::numeric_limits<float>::quiet_NaN());
  }

  void compare_within_block(const Parallel& parallel) {
    block_.gram(matrix_.data(), parallel);
    for (std::int64_t a = 0; a < block_.size(); ++a)
      for (std::int64_t b = 0; b < block_.size(); ++b) {
        if (a == b) continue;
        const float value = matrix_[a * block_.capacity() + b];
        raise(nearest_[block_.row(a)], value);
        keep_similarity(block_.row(a), b, value);
      }
  }

  // Takes the row at this position of the block among the top outliers if it is one of those so far. Its score must be
  // exact.
  void consider(std::int64_t position) {
    const Key key = this->key(block_.row(position));
    if (!is_active(key.index)) return;
    outliers_.insert(std::upper_bound(outliers_.begin(), outliers_.end(), key, comes_before), key);
    if (static_cast<std::int64_t>(outliers_.size()) > wanted_) outliers_.pop_back();
    if (static_cast<std::int64_t>(outliers_.size()) == wanted_) to_beat_ = outliers_.back();
    if (keeps_similarities_ && outliers_.front().index == key.index)
      for (std::int64_t i = 0; i < item_.rows.count; ++i) to_best_[i] = to_block_[i * block_.size() + position];
  }

  void keep_similarity(std::int64_t i, std::int64_t position, float value) {
    if (keeps_similarities_) to_block_[i * block_.size() + position] = value;
  }

  // Row i has met row j of the block with this similarity.
  void join_group(std::int64_t i, std::int64_t position, float value) {
    if (group_.empty() || value <= to_leader_[i]) return;
    to_leader_[i] = value;
    group_[i] = static_cast<std::int32_t>(leaders_ - block_.size() + position);
  }

  // The rows of all groups, a group after the other, and where each group begins.
  struct Groups {
    std::vector<std::int64_t> rows, begin;
  };

  Groups groups() const {
    Groups groups{std::vector<std::int64_t>(active_.size() + pruned_.size()), std::vector<std::int64_t>(leaders_ + 1)};
    for (const auto* rows : {&active_, &pruned_})
      for (const std::int64_t i : *rows) ++groups.begin[group_[i] + 1];
    std::partial_sum(groups.begin.begin(), groups.begin.end(), groups.begin.begin());
    std::vector<std::int64_t> next = groups.begin;
    for (const auto* rows : {&active_, &pruned_})
      for (const std::int64_t i : *rows) groups.rows[next[group_[i]]++] = i;
    return groups;
  }

  // Compares the active rows with some rows of their groups, while that prunes enough of them. Tried when there are
  // twice as many groups as before, so it costs little where it does not help.
  void compare_within_groups(const Parallel& parallel) {
    if (group_.empty() || leaders_ < next_groups_ || static_cast<std::int64_t>(active_.size()) < few_active_) return;
    next_groups_ = 2 * leaders_;
    const Groups groups = this->groups();
    std::int64_t tried = 0, hits = 0;
    for (std::int64_t group = 0; group < leaders_ && (tried < kTrial || hits >= tried / 4); ++group) {
      const std::int64_t begin = groups.begin[group], count = groups.begin[group + 1] - begin;
      std::vector<std::int64_t> active, members;
      for (std::int64_t number = begin; number < begin + count; ++number)
        if (is_active(groups.rows[number])) active.push_back(groups.rows[number]);
      if (active.empty() || count < 2) continue;
      const std::int64_t compared = std::min(count, active_block_.capacity());
      for (std::int64_t number = 0; number < compared; ++number)
        members.push_back(groups.rows[begin + number * count / compared]);
      active_block_.clear();
      active_block_.append(members, parallel);
      active_block_.similarities(
          active, [](std::int64_t) { return 0; }, kTileColumns, parallel,
          [&](std::int64_t i, const float* values, std::int64_t first, std::int64_t count, int) {
            for (std::int64_t j = 0; j < count; ++j)
              if (active_block_.row(first + j) != i) raise(nearest_[i], values[j]);
            return is_active(i);
          });
      tried += active.size();
      hits += std::count_if(active.begin(), active.end(), [&](std::int64_t i) { return !is_active(i); });
    }
    active_block_.clear();
    prune();
  }

  // Moves the pruned rows that share a group with a row of the block to the front: they rule it out soonest.
  void order_pruned(const std::vector<std::int64_t>& positions) {
    if (group_.empty() || positions.empty()) return;
    std::vector<std::uint8_t> shared(leaders_);
    for (const std::int64_t position : positions) shared[group_[block_.row(position)]] = 1;
    std::stable_partition(pruned_.begin(), pruned_.end(), [&](std::int64_t i) { return shared[group_[i]] != 0; });
  }

  // Compares the active rows of the block with the pruned rows, a chunk at a time. Returns the positions of the rows of
  // the block that are active at the end.
  std::vector<std::int64_t> compare_with_pruned(const Parallel& parallel) {
    std::vector<std::int64_t> positions(block_.size());
    std::iota(positions.begin(), positions.end(), 0);
    const auto keep_active = [&] {
      positions.erase(std::remove_if(positions.begin(), positions.end(),
                                     [&](std::int64_t position) { return !is_active(block_.row(position)); }),
                      positions.end());
    };
    keep_active();
    order_pruned(positions);
    const std::int64_t count = pruned_.size();
    for (std::int64_t begin = 0; begin < count && !positions.empty(); begin += pruned_chunk_) {
      if (active_block_.size() != static_cast<std::int64_t>(positions.size())) {
        std::vector<std::int64_t> rows;
        for (const std::int64_t position : positions) rows.push_back(block_.row(position));
        active_block_.clear();
        active_block_.append(rows, parallel);
      }
      compare(
          {pruned_.begin() + begin, pruned_.begin() + std::min(begin + pruned_chunk_, count)}, active_block_,
          [&](std::int64_t j) { return positions[j]; }, parallel);
      keep_active();
    }
    active_block_.clear();
    return positions;
  }

  // Raises the bounds of `others` and of the rows of `block`. Row j of `block` is at position_of(j) in block_.
  template <class PositionOf>
  void compare(const std::vector<std::int64_t>& others, Block<T>& block, const PositionOf& position_of,
               const Parallel& parallel) {
    if (block.size() == 0) return;
    std::fill(nearest_of_block_.begin(), nearest_of_block_.end(), -kInfinity);
    block.similarities(
        others, [](std::int64_t) { return 0; }, kTileColumns, parallel,
        [&](std::int64_t i, const float* values, std::int64_t first, std::int64_t count, int thread) {
          float* nearest = nearest_of_block_.data() + thread * block.capacity() + first;
          for (std::int64_t j = 0; j < count; ++j) {
            raise(nearest_[i], values[j]);
            raise(nearest[j], values[j]);
            keep_similarity(i, position_of(first + j), values[j]);
            join_group(i, position_of(first + j), values[j]);
          }
          return true;
        });
    for (int thread = 0; thread < parallel.threads(); ++thread)
      for (std::int64_t a = 0; a < block.size(); ++a)
        raise(nearest_[block.row(a)], nearest_of_block_[thread * block.capacity() + a]);
  }

  // Moves the rows that the best score rules out from the active rows to the pruned ones.
  void prune() {
    const auto end =
        std::stable_partition(active_.begin(), active_.end(), [&](std::int64_t i) { return is_active(i); });
    pruned_.insert(pruned_.end(), end, active_.end());
    active_.erase(end, active_.end());
  }

  static void raise(float& maximum, float value) { maximum = std::max(maximum, value); }

  static constexpr std::int64_t kTrial = 4096;  // rows that are compared within their groups, helpful or not
  static constexpr std::int64_t kMostSimilarities = std::int64_t{1} << 22;

  const Item<T>& item_;
  std::int64_t wanted_;
  const Score& score_;
  std::vector<float> nearest_;
  Block<T> block_;
  Block<T> active_block_;  // the rows of block_ that are still active after the comparison with the active rows
  // The size of the next block. It starts small: few rows suffice if the item has an outlier, fewer still if signatures
  // prune the rest. In noise there is no outlier, and it grows.
  std::int64_t block_size_;
  std::int64_t pruned_chunk_;
  std::vector<float> matrix_;
  std::vector<float> nearest_of_block_;  // [threads, block]
  std::vector<std::int64_t> active_;     // rows that may be the top outlier and have not been in a block
  std::vector<std::int64_t> pruned_;     // rows that cannot be the top outlier and have not been in a block
  std::vector<std::uint8_t> tried_;      // whether a row was tried by signature
  SignatureHitRate hit_rate_;
  std::int64_t few_active_;                     // so few active rows are not worth grouping
  std::int64_t leaders_ = 0, next_groups_ = 1;  // rows of the blocks so far, each the leader of a group
  std::vector<std::int32_t> group_;             // of each row
  std::vector<float> to_leader_;                // the similarity of each row to the leader of its group
  bool keeps_similarities_;                     // of all rows to the block: not if there are many
  std::vector<float> to_block_;                 // [rows, block]: similarities, NaN where they were not computed
  std::vector<Key> outliers_;                   // the best keys so far, as many as are wanted
  Key to_beat_ = kNoKey;                        // the last of these, once there are so many
  std::vector<float> to_best_;                  // the column of to_block_ of the best row
};

}  // namespace tokenprune::cpu
