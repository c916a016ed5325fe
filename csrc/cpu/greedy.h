// The greedy selection, written once. A policy says how the first pick is made, and how a score is formed from the
// running maximum similarity; ties, masking, non-finite rows and the order of picks live here.
//
// Scores only fall as rows are selected. So a running maximum that lacks some picks bounds its row's score from above,
// and most rows never need the rest (the accelerated greedy of Minoux, 1978). A round takes the front, the rows with
// the best bounds, brings it up to date, and works on the best of it alone, the candidates: while the best of them
// beats every bound outside, it is the next pick, and only the similarities among them are needed to know the one
// after.
#pragma once

#include "../common/order.h"
#include "block.h"
#include "block_sizes.h"

namespace tokenprune::cpu {

// Where the first k picks go, in selection order, and the scores they won with.
struct Picks {
  std::int64_t* indices;
  float* scores;  // null where nobody asked
  std::int64_t k;
  std::int64_t offset;  // added to every index
  std::int64_t count = 0;

  bool complete() const { return count == k; }
  void add(Key key) {
    indices[count] = key.index + offset;
    if (scores != nullptr) scores[count] = key.score;
    ++count;
  }
};

template <class T, class Policy>
class Greedy {
 public:
  Greedy(Item<T>& item, const Policy& policy, const Picks& picks, BlockSizes sizes, int threads)
      : item_(item),
        policy_(policy),
        picks_(picks),
        sizes_(sizes),
        selected_(item, picks.k, threads),
        candidates_(item, std::min(sizes.candidates, sizes.front), threads),
        matrix_(candidates_.capacity() * candidates_.capacity()),
        taken_in_(item.rows.count) {}

  template <class Parallel>
  void run(Parallel& parallel) {
    pick_first(parallel);
    while (!picks_.complete() && !bounds_.empty()) {
      const auto front = bounds_.begin() + std::min<std::int64_t>(sizes_.front, bounds_.size());
      Key outside = best_behind(front, bounds_.end());
      const auto able = bring_up_to_date(front, outside, parallel);
      if (able == bounds_.begin()) continue;
      const auto candidates = bounds_.begin() + std::min<std::int64_t>(candidates_.capacity(), able - bounds_.begin());
      outside = std::min(outside, best_behind(candidates, able), comes_before);
      pick_from(candidates, outside, parallel);
    }
    pick_non_finite();
  }

 private:
  using Bound = std::vector<Key>::iterator;

  Key key(std::int64_t i) const { return {policy_.score(i, item_.running_maximum[i]), i}; }

  // Moves the best bounds up to `end` in front of `middle`; the best of those behind it, kNoKey if there is none.
  Key best_behind(Bound middle, Bound end) {
    if (middle == end) return kNoKey;
    std::nth_element(bounds_.begin(), middle, end, comes_before);
    return *middle;
  }

  void pick(Key key) {
    item_.state[key.index] = RowState::selected;
    picks_.add(key);
  }

  template <class Parallel>
  void pick_first(Parallel& parallel) {
    const Key first = policy_.first_pick(item_, parallel);
    if (first.index == kNoKey.index) return;
    pick(first);
    if (picks_.complete()) return;
    std::fill(item_.running_maximum.begin(), item_.running_maximum.end(), -kInfinity);
    selected_.append({first.index}, parallel);
    std::vector<std::int64_t> others;
    for (std::int64_t i = 0; i < item_.rows.count; ++i)
      if (item_.state[i] == RowState::candidate) others.push_back(i);
    if (!policy_.take_in_first(item_, first.index)) take_in(others, kNoKey, parallel);
    std::fill(taken_in_.begin(), taken_in_.end(), 1);
    for (const std::int64_t i : others) bounds_.push_back(key(i));
  }

  // `others` take in the picks that they lack, until their bounds turn out not to beat `outside`. Those that lack as
  // many are best neighbours in the list.
  template <class Parallel>
  void take_in(const std::vector<std::int64_t>& others, Key outside, Parallel& parallel) {
    selected_.similarities(
        others, [&](std::int64_t i) { return taken_in_[i]; }, sizes_.part, parallel,
        [&](std::int64_t i, const float* values, std::int64_t first, std::int64_t count, int) {
          for (std::int64_t j = 0; j < count; ++j)
            item_.running_maximum[i] = std::max(item_.running_maximum[i], values[j]);
          taken_in_[i] = first + count;
          return beats(key(i), outside);
        });
  }

  // Brings the rows of the front up to date, and moves those to its start that still may beat `outside`; the end of
  // these.
  template <class Parallel>
  Bound bring_up_to_date(Bound end, Key outside, Parallel& parallel) {
    std::vector<std::int64_t> behind;
    for (Bound bound = bounds_.begin(); bound != end; ++bound)
      if (taken_in_[bound->index] < selected_.size()) behind.push_back(bound->index);
    std::sort(behind.begin(), behind.end(), [&](std::int64_t i, std::int64_t j) {
      return taken_in_[i] != taken_in_[j] ? taken_in_[i] < taken_in_[j] : i < j;
    });
    take_in(behind, outside, parallel);
    for (Bound bound = bounds_.begin(); bound != end; ++bound) *bound = key(bound->index);
    return std::partition(bounds_.begin(), end, [&](Key bound) { return beats(bound, outside); });
  }

  // Picks from the candidates, which end at `end`, as long as the best of them beats `outside`.
  template <class Parallel>
  void pick_from(Bound end, Key outside, Parallel& parallel) {
    Bound best = std::min_element(bounds_.begin(), end, comes_before);
    if (!beats(*best, outside)) return;
    candidates_.clear();
    std::vector<std::int64_t> rows;
    for (Bound bound = bounds_.begin(); bound != end; ++bound) rows.push_back(bound->index);
    candidates_.append(rows, parallel);
    candidates_.gram(matrix_.data(), parallel);

    std::vector<std::int64_t> new_picks;
    while (beats(*best, outside)) {
      pick(*best);
      new_picks.push_back(best->index);
      if (picks_.complete()) return;
      const float* similarities = matrix_.data() + (best - bounds_.begin()) * candidates_.capacity();
      best = end;
      for (Bound bound = bounds_.begin(); bound != end; ++bound) {
        const std::int64_t i = bound->index;
        if (item_.state[i] == RowState::selected) continue;
        item_.running_maximum[i] = std::max(item_.running_maximum[i], similarities[bound - bounds_.begin()]);
        *bound = key(i);
        if (best == end || comes_before(*bound, *best)) best = bound;
      }
      if (best == end) break;
    }
    selected_.append(new_picks, parallel);
    for (const std::int64_t i : rows) taken_in_[i] = selected_.size();
    bounds_.erase(
        std::remove_if(bounds_.begin(), end, [&](Key bound) { return item_.state[bound.index] == RowState::selected; }),
        end);
  }

  // Everything beats kNoKey: then there is no row outside.
  static bool beats(Key key, Key outside) { return outside.index == kNoKey.index || comes_before(key, outside); }

  void pick_non_finite() {
    for (std::int64_t i = 0; !picks_.complete(); ++i)
      if (item_.state[i] == RowState::non_finite) pick({-kInfinity, i});
  }

  Item<T>& item_;
  const Policy& policy_;
  Picks picks_;
  BlockSizes sizes_;
  Block<T> selected_;
  Block<T> candidates_;
  std::vector<float> matrix_;           // similarities among the candidates
  std::vector<std::int64_t> taken_in_;  // how many picks are in a row's running maximum
  std::vector<Key> bounds_;             // of the finite rows that are not selected
};

template <class T, class Policy, class Parallel>
void greedy(Item<T>& item, const Policy& policy, const Picks& picks, Parallel& parallel) {
  Greedy<T, Policy>(item, policy, picks, block_sizes(item.rows.count), parallel.threads()).run(parallel);
}

}  // namespace tokenprune::cpu
