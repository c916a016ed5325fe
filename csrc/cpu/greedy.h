// The greedy selection, written once. A policy says how the first pick is prepared and scored, and how a score is
// formed from the running maximum similarity; ties, masking, non-finite rows and the order of picks live here.
//
// Parallel is called as parallel(count, grain, body) and calls body(begin, end, thread) over disjoint ranges of
// [0, count), thread being below parallel.threads(). Results do not depend on how it splits the range.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../common/order.h"
#include "rows.h"
#include "similarity.h"

namespace tokenprune::cpu {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

enum class RowState : std::uint8_t { candidate, non_finite, selected };

// Rows per parallel task, so that a task is worth handing to a thread.
inline std::int64_t grain(std::int64_t multiply_adds_per_row) {
  constexpr std::int64_t kMultiplyAddsPerTask = 1 << 17;
  return std::max<std::int64_t>(1, kMultiplyAddsPerTask / std::max<std::int64_t>(1, multiply_adds_per_row));
}

// One item on its way through the selection: O(N) beside its rows.
template <class T>
struct Item {
  Rows<T> rows;
  DotTile<T> dot_tile = cpu::dot_tile<T>();
  std::vector<float> reciprocal_norm = std::vector<float>(rows.count);
  std::vector<RowState> state = std::vector<RowState>(rows.count);
  std::vector<float> running_maximum = std::vector<float>(rows.count, -kInfinity);  // max similarity to the selected
};

// Norms and row states. `weight` is the importance or relevance of each row, null where the method has none.
template <class T, class Parallel>
Item<T> prepare(const Rows<T>& rows, const float* weight, Parallel& parallel) {
  Item<T> item{rows};
  parallel(rows.count, grain(rows.depth), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      // Not finite whenever an element is not: products and sums keep Inf and NaN.
      float sum_of_squares;
      item.dot_tile(rows.row(i), rows.stride, 1, rows.row(i), rows.stride, 1, rows.depth, &sum_of_squares, 1);
      const bool finite = std::isfinite(sum_of_squares) && (weight == nullptr || std::isfinite(weight[i]));
      item.state[i] = finite ? RowState::candidate : RowState::non_finite;
      item.reciprocal_norm[i] = finite ? reciprocal_norm(sum_of_squares) : 0.0f;
    }
  });
  return item;
}

// running_maximum[i] = max similarity of row i to any other finite row: one symmetric pass over tiles of all pairs.
template <class T, class Parallel>
void nearest_neighbours(Item<T>& item, Parallel& parallel) {
  constexpr std::int64_t kEdge = 32;
  const Rows<T>& rows = item.rows;
  const std::int64_t tiles = (rows.count + kEdge - 1) / kEdge;
  std::vector<float> nearest(parallel.threads() * rows.count, -kInfinity);

  const auto visit = [&](std::int64_t tile_i, std::int64_t tile_j, float* maximum) {
    const std::int64_t i0 = tile_i * kEdge, i1 = std::min(i0 + kEdge, rows.count);
    const std::int64_t j0 = tile_j * kEdge, j1 = std::min(j0 + kEdge, rows.count);
    float dots[kEdge * kEdge];
    item.dot_tile(rows.row(i0), rows.stride, i1 - i0, rows.row(j0), rows.stride, j1 - j0, rows.depth, dots, kEdge);
    for (std::int64_t i = i0; i < i1; ++i)
      for (std::int64_t j = std::max(j0, i + 1); j < j1; ++j) {
        if (item.state[i] != RowState::candidate || item.state[j] != RowState::candidate) continue;
        const float dot = dots[(i - i0) * kEdge + (j - j0)];
        const float value = similarity(dot, item.reciprocal_norm[i], item.reciprocal_norm[j]);
        maximum[i] = std::max(maximum[i], value);
        maximum[j] = std::max(maximum[j], value);
      }
  };

  // The pairs of tiles (i, j), i <= j, numbered row by row of the triangle.
  parallel(tiles * (tiles + 1) / 2, grain(kEdge * kEdge * rows.depth),
           [&](std::int64_t begin, std::int64_t end, int thread) {
             std::int64_t i = 0, j = begin;
             while (j >= tiles) j += ++i - tiles;
             for (std::int64_t pair = begin; pair < end; ++pair) {
               visit(i, j, nearest.data() + thread * rows.count);
               if (++j == tiles) j = ++i;
             }
           });

  for (int thread = 0; thread < parallel.threads(); ++thread)
    for (std::int64_t i = 0; i < rows.count; ++i)
      item.running_maximum[i] = std::max(item.running_maximum[i], nearest[thread * rows.count + i]);
}

// Takes the finite row `pick` into the running maxima of rows [begin, end).
template <class T>
void update(Item<T>& item, std::int64_t pick, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kRows = 64;
  const Rows<T>& rows = item.rows;
  float dots[kRows];
  for (std::int64_t first = begin; first < end; first += kRows) {
    const std::int64_t count = std::min(kRows, end - first);
    item.dot_tile(rows.row(first), rows.stride, count, rows.row(pick), rows.stride, 1, rows.depth, dots, 1);
    for (std::int64_t i = first; i < first + count; ++i) {
      if (item.state[i] != RowState::candidate) continue;
      const float value = similarity(dots[i - first], item.reciprocal_norm[i], item.reciprocal_norm[pick]);
      item.running_maximum[i] = std::max(item.running_maximum[i], value);
    }
  }
}

// The best key among the unselected rows of [begin, end); non-finite rows come after all finite ones.
template <class T, class Score>
Key best_key(const Item<T>& item, std::int64_t begin, std::int64_t end, const Score& score) {
  Key best = kNoKey;
  for (std::int64_t i = begin; i < end; ++i) {
    if (item.state[i] == RowState::selected) continue;
    const Key key{item.state[i] == RowState::candidate ? score(i) : -kInfinity, i};
    if (best.index == kNoKey.index || comes_before(key, best)) best = key;
  }
  return best;
}

template <class T, class Policy, class Parallel>
Key first_pick(Item<T>& item, const Policy& policy, Parallel& parallel) {
  policy.prepare_first_pick(item, parallel);
  const Key pick = best_key(item, 0, item.rows.count,
                            [&](std::int64_t i) { return policy.first_score(i, item.running_maximum[i]); });
  std::fill(item.running_maximum.begin(), item.running_maximum.end(), -kInfinity);
  return pick;
}

// Takes in the row picked last, then finds the best of the others.
template <class T, class Policy, class Parallel>
Key next_pick(Item<T>& item, const Policy& policy, Parallel& parallel, Key last, bool last_is_finite) {
  std::vector<Key> best(parallel.threads(), kNoKey);
  const std::int64_t depth = last_is_finite ? item.rows.depth : 0;
  parallel(item.rows.count, grain(depth), [&](std::int64_t begin, std::int64_t end, int thread) {
    if (last_is_finite) update(item, last.index, begin, end);
    const auto score = [&](std::int64_t i) { return policy.score(i, item.running_maximum[i]); };
    best[thread] = std::min(best[thread], best_key(item, begin, end, score), comes_before);
  });
  return *std::min_element(best.begin(), best.end(), comes_before);
}

// The first k picks, in selection order, and the scores they won with (null where nobody asked). Needs k <= N.
// `offset` is added to every index.
template <class T, class Policy, class Parallel>
void greedy(Item<T>& item, const Policy& policy, std::int64_t k, std::int64_t offset, std::int64_t* indices,
            float* scores, Parallel& parallel) {
  Key pick = kNoKey;
  bool finite = false;
  for (std::int64_t step = 0; step < k; ++step) {
    pick = step == 0 ? first_pick(item, policy, parallel) : next_pick(item, policy, parallel, pick, finite);
    finite = item.state[pick.index] == RowState::candidate;
    item.state[pick.index] = RowState::selected;
    indices[step] = pick.index + offset;
    if (scores != nullptr) scores[step] = pick.score;
  }
}

}  // namespace tokenprune::cpu
