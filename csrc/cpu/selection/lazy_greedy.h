// The greedy selection, written once for all methods. A policy forms the scores. Ties, non-finite rows and the order of
// picks are handled here.
//
// Scores only fall as rows are picked. So the score of a row that has not seen the latest picks is an upper bound on
// its current score, and most rows never need to see them (lazy greedy; Minoux, 1978). A round
//   (1) takes the rows with the highest upper bounds, the frontier,
//   (2) refreshes those bounds, dropping a row as soon as it cannot win, and
//   (3) picks greedily among the best of the rest, the candidates, until a row outside might win. This needs only the
//       similarities among the candidates.
//
// One similar pick is enough to rule a row out. Signatures tell which picks are likely to be similar.
//
// The selection may start from rows that are selected already, which no policy without kOrderIndependent takes.
//
// A policy provides the following. Rows are named by their index in the item.
//
//   static constexpr bool kOrderIndependent
//       True if a row may be updated with the picks in any order, and with the same pick twice.
//   Key first_pick(const Item<T>& item, const Parallel& parallel)
//       Returns the first pick and its score, kNoKey if no row is finite. Not called if a finite row is selected
//       already.
//   std::optional<float> similarity_to_first(const Item<T>& item, int64 i, int64 first)
//       Returns the similarity of row i to the first pick if the policy knows it already.
//   void start(Key first)
//       Called once, after first_pick.
//   void update(int64 i, const float* similarities, int64 first, int64 count)
//       Lowers the score of row i for `count` picks from number `first` on, given its similarities to them. Unless
//       kOrderIndependent, `first` is the number of picks that the row has seen. Threads call it for different rows
//       at the same time.
//   float score(int64 i)
//       Returns the score of row i, given the picks that it has seen. No update raises it.
//   bool exhausted(Key best)
//       Returns whether no pick can change a score any more, given the best key. The rest is then picked by index.
//   float reported(float score)
//       Returns the score that the caller sees.
//
// A round picks among candidates that have seen all picks before it. For that, a policy provides:
//
//   void open(const std::vector<int64>& rows)
//       Makes `rows` the candidates.
//   void pick_candidate(const std::vector<int64>& rows, int64 position, const float* similarities)
//       Picks rows[position] and lowers the scores of all candidates, given its similarities to them.
//   void close(const std::vector<int64>& rows)
//       Ends the round. The candidates have now seen all picks. Not called in the last round.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "block.h"
#include "block_sizes.h"
#include "order.h"
#include "signature_hit_rate.h"

namespace tokenprune::cpu {

// The output: the indices of the first k picks in the order of selection, and the scores that they were picked with.
struct Picks {
  std::int64_t* indices;
  float* scores;  // null if the caller did not ask for them
  std::int64_t k;
  std::int64_t offset;                         // added to every index
  std::span<const std::int64_t> initial = {};  // rows that count as selected before the first pick
  std::int64_t count = 0;

  bool complete() const { return count == k; }
  void add(Key key) {
    indices[count] = key.index + offset;
    if (scores != nullptr) scores[count] = key.score + 0.0f;  // never -0.0: equal scores look alike
    ++count;
  }
};

template <class T, class Policy>
class LazyGreedy {
 public:
  LazyGreedy(Item<T>& item, Policy& policy, const Picks& picks, BlockSizes sizes, int threads)
      : item_(item),
        policy_(policy),
        picks_(picks),
        sizes_(sizes),
        selected_(item, std::ssize(picks.initial) + picks.k, threads),
        candidates_(item, std::min(sizes.candidates, sizes.frontier), threads),
        matrix_(candidates_.capacity() * candidates_.capacity()),
        picks_seen_(item.rows.count) {}

  void run(const Parallel& parallel) {
    if (!start_from_initial(parallel)) pick_first(parallel);
    std::int64_t frontier_size = sizes_.frontier;
    while (!picks_.complete() && !(upper_bounds_.empty() && lower_.empty())) {
      const auto begin = upper_bounds_.begin();
      const auto frontier_end = begin + std::min<std::int64_t>(frontier_size, upper_bounds_.size());
      Key best_outside = partition_best(frontier_end, upper_bounds_.end());
      if (!lower_.empty() && !comes_before(best_outside, best_lower_)) {
        set_lower_apart(4 * frontier_size);
        continue;
      }
      const auto live_end = refresh(frontier_end, best_outside, parallel);
      if (live_end == begin) {
        // One pick lowered the scores of most rows. A small frontier would need too many rounds to find the best.
        frontier_size *= 2;
        continue;
      }
      frontier_size = sizes_.frontier;
      const auto candidates_end = begin + std::min<std::int64_t>(candidates_.capacity(), live_end - begin);
      best_outside = std::min(best_outside, partition_best(candidates_end, live_end), comes_before);
      pick_from_candidates(candidates_end, best_outside, parallel);
    }
    pick_rest(RowState::non_finite, -kInfinity);
  }

 private:
  using BoundIterator = std::vector<Key>::iterator;

  Key key(std::int64_t i) const { return {policy_.score(i), i}; }

  // Moves the best upper bounds of those before `end` in front of `middle`. Returns the best of the rest, kNoKey if
  // there is none.
  Key partition_best(BoundIterator middle, BoundIterator end) {
    if (middle == end) return kNoKey;
    std::nth_element(upper_bounds_.begin(), middle, end, comes_before);
    return *middle;
  }

  void pick(Key key) {
    item_.state[key.index] = RowState::selected;
    picks_.add({policy_.reported(key.score), key.index});
  }

  void pick_first(const Parallel& parallel) {
    const Key first = policy_.first_pick(item_, parallel);
    if (first.index == kNoKey.index) return;
    if (policy_.exhausted(first)) return pick_rest(RowState::finite, first.score);
    pick(first);
    if (picks_.complete()) return;
    policy_.start(first);
    append({first.index}, parallel);
    bound_others(parallel);
  }

  // Returns false if no initial row is finite: the others influence nothing.
  bool start_from_initial(const Parallel& parallel) {
    std::vector<std::int64_t> finite;
    for (const std::int64_t i : picks_.initial) {
      if (item_.state[i] == RowState::finite) finite.push_back(i);
      item_.state[i] = RowState::selected;
    }
    if (finite.empty()) return false;
    append({finite.front()}, parallel);
    bound_others(parallel);
    finite.erase(finite.begin());
    append(finite, parallel);
    return true;
  }

  // Has every row that may be picked see the first row of selected_: its score is then an upper bound.
  void bound_others(const Parallel& parallel) {
    std::vector<std::int64_t> others;
    for (std::int64_t i = 0; i < item_.rows.count; ++i)
      if (item_.state[i] == RowState::finite) others.push_back(i);
    update_with_first(others, parallel);
    for (const std::int64_t i : others) lower_.push_back(key(i));
    set_lower_apart(4 * sizes_.frontier);
  }

  // Puts the best upper bounds, `least` of them or more, into upper_bounds_ and the others into lower_. Those do not
  // change, so the rounds that follow need not look at them for as long as enough of the best still beat them.
  void set_lower_apart(std::int64_t least) {
    const auto total = static_cast<std::int64_t>(upper_bounds_.size() + lower_.size());
    // Among many rows, about two frontiers fall in a round. With so many apart, looking at the best of them in every
    // round costs as much as looking at all now and then.
    const auto many = static_cast<std::int64_t>(std::sqrt(2.0 * static_cast<double>(sizes_.frontier * total)));
    const std::int64_t count = std::min(total, std::max(least, many));
    lower_.insert(lower_.end(), upper_bounds_.begin(), upper_bounds_.end());
    if (count < total) std::nth_element(lower_.begin(), lower_.begin() + count, lower_.end(), comes_before);
    best_lower_ = count < total ? lower_[count] : kNoKey;
    upper_bounds_.assign(lower_.begin(), lower_.begin() + count);
    lower_.erase(lower_.begin(), lower_.begin() + count);
  }

  void append(const std::vector<std::int64_t>& new_picks, const Parallel& parallel) {
    selected_.append(new_picks, parallel);
    if (item_.signature.empty()) return;
    for (const std::int64_t i : new_picks) signatures_.push_back(item_.signature[i]);
  }

  void update_with_first(const std::vector<std::int64_t>& others, const Parallel& parallel) {
    std::vector<std::int64_t> unknown;
    for (const std::int64_t i : others) {
      const std::optional<float> value = policy_.similarity_to_first(item_, i, selected_.row(0));
      if (!value) {
        unknown.push_back(i);
        continue;
      }
      policy_.update(i, &*value, 0, 1);
      picks_seen_[i] = 1;
    }
    update(unknown, kNoKey, parallel);
  }

  // Updates each row of `others` with the picks it has not seen, stopping once its bound no longer beats
  // `best_outside`. Sort `others` by the number of picks seen.
  void update(const std::vector<std::int64_t>& others, Key best_outside, const Parallel& parallel) {
    selected_.similarities(
        others, [&](std::int64_t i) { return picks_seen_[i]; }, sizes_.picks_per_update, parallel,
        [&](std::int64_t i, const float* values, std::int64_t first, std::int64_t count, int) {
          // The first row of a tile may have seen fewer picks than this one.
          const std::int64_t seen = std::clamp<std::int64_t>(picks_seen_[i] - first, 0, count);
          policy_.update(i, values + seen, first + seen, count - seen);
          picks_seen_[i] = std::max<std::int64_t>(picks_seen_[i], first + count);
          return beats(key(i), best_outside);
        });
  }

  std::int64_t missing_picks(std::int64_t i) const { return selected_.size() - picks_seen_[i]; }

  // Rows of `stale` that miss many picks are updated with the two whose signatures match them best. Usually that
  // already proves that the row cannot beat `best_outside`, and it is dropped.
  void try_nearest_by_signature(std::vector<std::int64_t>& stale, Key best_outside, const Parallel& parallel) {
    if (item_.signature.empty() || best_outside.index == kNoKey.index) return;
    const std::int64_t many = std::max<std::int64_t>(sizes_.signature_after, 2);
    const auto begin = stale.begin();
    const auto many_end = std::partition(begin, stale.end(), [&](std::int64_t i) { return missing_picks(i) >= many; });
    const auto tried_end = begin + hit_rate_.attempts(many_end - begin);
    parallel(tried_end - begin, grain(2 * kLoadCost * item_.rows.D), [&](std::int64_t first, std::int64_t last, int) {
      for (std::int64_t number = first; number < last; ++number) {
        const std::int64_t i = stale[number], seen = picks_seen_[i];
        for (const std::int64_t position : item_.kernels.most_alike(item_.signature[i], signatures_.data() + seen,
                                                                    missing_picks(i), /*except=*/kNoRow)) {
          const std::int64_t pick = selected_.row(seen + position);
          const float value = item_.similarity_lower_bound(i, pick, item_.dot_of_row(i, pick));
          policy_.update(i, &value, seen + position, 1);
          if (!beats(key(i), best_outside)) break;
        }
      }
    });
    const auto kept_end = std::partition(begin, tried_end, [&](std::int64_t i) { return beats(key(i), best_outside); });
    hit_rate_.add(tried_end - begin, tried_end - kept_end);
    stale.erase(kept_end, tried_end);
  }

  // Refreshes the upper bounds before `frontier_end`, each for as long as it may beat `best_outside`. Moves those that
  // still beat it to the front and returns their end.
  BoundIterator refresh(BoundIterator frontier_end, Key best_outside, const Parallel& parallel) {
    std::vector<std::int64_t> stale;
    for (BoundIterator bound = upper_bounds_.begin(); bound != frontier_end; ++bound)
      if (missing_picks(bound->index) > 0) stale.push_back(bound->index);
    if constexpr (Policy::kOrderIndependent) try_nearest_by_signature(stale, best_outside, parallel);
    std::sort(stale.begin(), stale.end(), [&](std::int64_t i, std::int64_t j) {
      return picks_seen_[i] != picks_seen_[j] ? picks_seen_[i] < picks_seen_[j] : i < j;
    });
    update(stale, best_outside, parallel);
    for (BoundIterator bound = upper_bounds_.begin(); bound != frontier_end; ++bound) *bound = key(bound->index);
    return std::partition(upper_bounds_.begin(), frontier_end, [&](Key bound) { return beats(bound, best_outside); });
  }

  // Picks from the candidates, the rows of the bounds before `end`, for as long as the best of them beats
  // `best_outside`.
  void pick_from_candidates(BoundIterator end, Key best_outside, const Parallel& parallel) {
    BoundIterator best = std::min_element(upper_bounds_.begin(), end, comes_before);
    candidates_.clear();
    std::vector<std::int64_t> rows;
    for (BoundIterator bound = upper_bounds_.begin(); bound != end; ++bound) rows.push_back(bound->index);
    candidates_.append(rows, parallel);
    candidates_.gram(matrix_.data(), parallel);
    policy_.open(rows);

    std::vector<std::int64_t> new_picks;
    while (beats(*best, best_outside)) {
      if (policy_.exhausted(*best)) return pick_rest(RowState::finite, best->score);
      pick(*best);
      new_picks.push_back(best->index);
      if (picks_.complete()) return;
      const std::int64_t position = best - upper_bounds_.begin();
      policy_.pick_candidate(rows, position, matrix_.data() + position * candidates_.capacity());
      best = end;
      for (BoundIterator bound = upper_bounds_.begin(); bound != end; ++bound) {
        if (item_.state[bound->index] == RowState::selected) continue;
        *bound = key(bound->index);
        if (best == end || comes_before(*bound, *best)) best = bound;
      }
      if (best == end) break;
    }
    policy_.close(rows);
    append(new_picks, parallel);
    for (const std::int64_t i : rows) picks_seen_[i] = selected_.size();
    const auto is_selected = [&](Key bound) { return item_.state[bound.index] == RowState::selected; };
    upper_bounds_.erase(std::remove_if(upper_bounds_.begin(), end, is_selected), end);
  }

  // Every key beats kNoKey, which says that there is no row outside.
  static bool beats(Key key, Key best_outside) {
    return best_outside.index == kNoKey.index || comes_before(key, best_outside);
  }

  // Picks the rows in this state by index, until the selection is complete. Their scores are all equal to `score`, and
  // no pick changes them.
  void pick_rest(RowState state, float score) {
    for (std::int64_t i = 0; i < item_.rows.count && !picks_.complete(); ++i)
      if (item_.state[i] == state) pick({score, i});
    upper_bounds_.clear();
    lower_.clear();
  }

  Item<T>& item_;
  Policy& policy_;
  Picks picks_;
  BlockSizes sizes_;
  Block<T> selected_;
  Block<T> candidates_;
  std::vector<float> matrix_;             // similarities among the candidates
  std::vector<std::int64_t> picks_seen_;  // how many picks each row has been updated with
  std::vector<Key> upper_bounds_;         // of the finite rows that are not selected, the best of them
  std::vector<Key> lower_;                // the other upper bounds
  Key best_lower_ = kNoKey;               // the best of these
  std::vector<Signature> signatures_;     // of the picks, if the item has signatures
  SignatureHitRate hit_rate_;
};

template <class T, class Policy>
void lazy_greedy(Item<T>& item, Policy& policy, const Picks& picks, const Parallel& parallel) {
  LazyGreedy<T, Policy>(item, policy, picks, block_sizes(item.rows), parallel.threads()).run(parallel);
}

}  // namespace tokenprune::cpu
