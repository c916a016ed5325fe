// The greedy selection, written once. A policy says how the first pick is made, what a row keeps of the picks, and how
// its score is formed from that; ties, masking, non-finite rows and the order of picks live here.
//
// Scores only fall as rows are selected. So the score of a row that has not taken in some picks bounds the one it has
// from above, and most rows never need the rest (the accelerated greedy of Minoux, 1978). A round takes the front, the
// rows with the best bounds, brings each up to date unless it falls behind all others first, and works on the best of
// the rest alone, the candidates: while the best of them beats every bound outside, it is the next pick, and only the
// similarities among them are needed to know the one after.
//
// One pick that is like a row is enough to show that it falls behind. Signatures tell which picks these may be.
#pragma once

#include <optional>

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
  Greedy(Item<T>& item, Policy& policy, const Picks& picks, BlockSizes sizes, int threads)
      : item_(item),
        policy_(policy),
        picks_(picks),
        sizes_(sizes),
        selected_(item, picks.k, threads),
        candidates_(item, std::min(sizes.candidates, sizes.front), threads),
        matrix_(candidates_.capacity() * candidates_.capacity()),
        taken_in_(item.rows.count) {}

  template <class Parallel>
  void run(const Parallel& parallel) {
    pick_first(parallel);
    std::int64_t front_size = sizes_.front;
    while (!picks_.complete() && !bounds_.empty()) {
      const auto front = bounds_.begin() + std::min<std::int64_t>(front_size, bounds_.size());
      Key outside = best_behind(front, bounds_.end());
      const auto able = bring_up_to_date(front, outside, parallel);
      // Where one pick lowers most rows, few rows at a time would take too many rounds.
      front_size = able == bounds_.begin() ? 2 * front_size : sizes_.front;
      if (able == bounds_.begin()) continue;
      const auto candidates = bounds_.begin() + std::min<std::int64_t>(candidates_.capacity(), able - bounds_.begin());
      outside = std::min(outside, best_behind(candidates, able), comes_before);
      pick_from(candidates, outside, parallel);
    }
    pick_rest(RowState::non_finite, -kInfinity);
  }

 private:
  using Bound = std::vector<Key>::iterator;

  Key key(std::int64_t i) const { return {policy_.score(item_, i), i}; }

  // Moves the best bounds up to `end` in front of `middle`; the best of those behind it, kNoKey if there is none.
  Key best_behind(Bound middle, Bound end) {
    if (middle == end) return kNoKey;
    std::nth_element(bounds_.begin(), middle, end, comes_before);
    return *middle;
  }

  void pick(Key key) {
    item_.state[key.index] = RowState::selected;
    picks_.add({policy_.reported(key.score), key.index});
  }

  template <class Parallel>
  void pick_first(const Parallel& parallel) {
    const Key first = policy_.first_pick(item_, parallel);
    if (first.index == kNoKey.index) return;
    if (policy_.exhausted(first)) return pick_rest(RowState::candidate, first.score);
    pick(first);
    if (picks_.complete()) return;
    policy_.start(item_, first);
    append({first.index}, parallel);
    std::vector<std::int64_t> others;
    for (std::int64_t i = 0; i < item_.rows.count; ++i)
      if (item_.state[i] == RowState::candidate) others.push_back(i);
    take_in_first(others, parallel);
    for (const std::int64_t i : others) bounds_.push_back(key(i));
  }

  template <class Parallel>
  void append(const std::vector<std::int64_t>& new_picks, const Parallel& parallel) {
    selected_.append(new_picks, parallel);
    if (item_.signature.empty()) return;
    for (const std::int64_t i : new_picks) signatures_.push_back(item_.signature[i]);
  }

  template <class Parallel>
  void take_in_first(const std::vector<std::int64_t>& others, const Parallel& parallel) {
    std::vector<std::int64_t> unknown;
    for (const std::int64_t i : others) {
      const std::optional<float> value = policy_.similarity_to_first(item_, i, selected_.row(0));
      if (!value) {
        unknown.push_back(i);
        continue;
      }
      policy_.take_in(item_, i, &*value, 0, 1);
      taken_in_[i] = 1;
    }
    take_in(unknown, kNoKey, parallel);
  }

  // `others` take in the picks that they lack, until their bounds turn out not to beat `outside`. Those that lack as
  // many are best neighbours in the list.
  template <class Parallel>
  void take_in(const std::vector<std::int64_t>& others, Key outside, const Parallel& parallel) {
    selected_.similarities(
        others, [&](std::int64_t i) { return taken_in_[i]; }, sizes_.part, parallel,
        [&](std::int64_t i, const float* values, std::int64_t first, std::int64_t count, int) {
          // Rows that are worked on together may lack fewer picks than the first of them.
          const std::int64_t known = std::clamp<std::int64_t>(taken_in_[i] - first, 0, count);
          policy_.take_in(item_, i, values + known, first + known, count - known);
          taken_in_[i] = std::max<std::int64_t>(taken_in_[i], first + count);
          return beats(key(i), outside);
        });
  }

  std::int64_t lacks(std::int64_t i) const { return selected_.size() - taken_in_[i]; }

  // Of `behind`, rows that lack many picks take in the two of these that are most like them by signature. Mostly that
  // shows already that they do not beat `outside`; then they are left out.
  template <class Parallel>
  void look_ahead(std::vector<std::int64_t>& behind, Key outside, const Parallel& parallel) {
    if (item_.signature.empty() || outside.index == kNoKey.index) return;
    const std::int64_t many = std::max<std::int64_t>(sizes_.signature_after, 2);
    const auto few = std::partition(behind.begin(), behind.end(), [&](std::int64_t i) { return lacks(i) >= many; });
    const auto end = behind.begin() + trust_.tries(few - behind.begin());
    parallel(end - behind.begin(), grain(2 * kFetch * item_.rows.depth),
             [&](std::int64_t first, std::int64_t last, int) {
               for (std::int64_t number = first; number < last; ++number) {
                 const std::int64_t i = behind[number], known = taken_in_[i];
                 for (const std::int64_t position :
                      most_alike_(item_.signature[i], signatures_.data() + known, lacks(i), kNobody)) {
                   const std::int64_t pick = selected_.row(known + position);
                   const float value = item_.similarity_lower_bound(i, pick, item_.dot_of_row(i, pick));
                   policy_.take_in(item_, i, &value, known + position, 1);
                   if (!beats(key(i), outside)) break;
                 }
               }
             });
    const auto left = std::partition(behind.begin(), end, [&](std::int64_t i) { return beats(key(i), outside); });
    trust_.add(end - behind.begin(), end - left);
    behind.erase(left, end);
  }

  // Brings the rows of the front up to date, as long as they may beat `outside`, and moves those that still may to its
  // start; the end of these.
  template <class Parallel>
  Bound bring_up_to_date(Bound end, Key outside, const Parallel& parallel) {
    std::vector<std::int64_t> behind;
    for (Bound bound = bounds_.begin(); bound != end; ++bound)
      if (lacks(bound->index) > 0) behind.push_back(bound->index);
    if constexpr (Policy::kAnyOrder) look_ahead(behind, outside, parallel);
    std::sort(behind.begin(), behind.end(), [&](std::int64_t i, std::int64_t j) {
      return taken_in_[i] != taken_in_[j] ? taken_in_[i] < taken_in_[j] : i < j;
    });
    take_in(behind, outside, parallel);
    for (Bound bound = bounds_.begin(); bound != end; ++bound) *bound = key(bound->index);
    return std::partition(bounds_.begin(), end, [&](Key bound) { return beats(bound, outside); });
  }

  // Picks from the candidates, which end at `end`, as long as the best of them beats `outside`.
  template <class Parallel>
  void pick_from(Bound end, Key outside, const Parallel& parallel) {
    Bound best = std::min_element(bounds_.begin(), end, comes_before);
    candidates_.clear();
    std::vector<std::int64_t> rows;
    for (Bound bound = bounds_.begin(); bound != end; ++bound) rows.push_back(bound->index);
    candidates_.append(rows, parallel);
    candidates_.gram(matrix_.data(), parallel);
    policy_.open(item_, rows);

    std::vector<std::int64_t> new_picks;
    while (beats(*best, outside)) {
      if (policy_.exhausted(*best)) return pick_rest(RowState::candidate, best->score);
      pick(*best);
      new_picks.push_back(best->index);
      if (picks_.complete()) return;
      const std::int64_t position = best - bounds_.begin();
      policy_.pick_candidate(item_, rows, position, matrix_.data() + position * candidates_.capacity());
      best = end;
      for (Bound bound = bounds_.begin(); bound != end; ++bound) {
        if (item_.state[bound->index] == RowState::selected) continue;
        *bound = key(bound->index);
        if (best == end || comes_before(*bound, *best)) best = bound;
      }
      if (best == end) break;
    }
    policy_.close(rows);
    append(new_picks, parallel);
    for (const std::int64_t i : rows) taken_in_[i] = selected_.size();
    bounds_.erase(
        std::remove_if(bounds_.begin(), end, [&](Key bound) { return item_.state[bound.index] == RowState::selected; }),
        end);
  }

  // Everything beats kNoKey: then there is no row outside.
  static bool beats(Key key, Key outside) { return outside.index == kNoKey.index || comes_before(key, outside); }

  // Rows whose scores are all the same, whatever else is picked.
  void pick_rest(RowState state, float score) {
    for (std::int64_t i = 0; i < item_.rows.count && !picks_.complete(); ++i)
      if (item_.state[i] == state) pick({score, i});
    bounds_.clear();
  }

  Item<T>& item_;
  Policy& policy_;
  Picks picks_;
  BlockSizes sizes_;
  Block<T> selected_;
  Block<T> candidates_;
  std::vector<float> matrix_;           // similarities among the candidates
  std::vector<std::int64_t> taken_in_;  // how many picks a row has taken in
  std::vector<Key> bounds_;             // of the finite rows that are not selected
  std::vector<Signature> signatures_;   // of the picks, where rows have one
  const MostAlike most_alike_ = most_alike();
  Trust trust_;
};

template <class T, class Policy, class Parallel>
void greedy(Item<T>& item, Policy& policy, const Picks& picks, const Parallel& parallel) {
  Greedy<T, Policy>(item, policy, picks, block_sizes(item.rows), parallel.threads()).run(parallel);
}

}  // namespace tokenprune::cpu
