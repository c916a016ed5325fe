// One item on its way through the selection: what is known of each row, O(N) beside the rows themselves.
//
// Parallel is called as parallel(count, grain, body) and calls body(begin, end, thread) over disjoint ranges of
// [0, count), thread being below parallel.threads(). Results do not depend on how it splits the range.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "rows.h"
#include "similarity.h"

namespace tokenprune::cpu {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

enum class RowState : std::uint8_t { candidate, non_finite, selected };

// More than the similarities by products.of_row and by products.of_tile may differ.
constexpr float kOrderMargin = 2e-5f;

// What fetching an element from memory takes, in multiplications and additions of elements that are at hand.
constexpr std::int64_t kFetch = 8;

// Rows per parallel task, so that a task is worth handing to a thread.
inline std::int64_t grain(std::int64_t multiply_adds_per_row) {
  constexpr std::int64_t kMultiplyAddsPerTask = 1 << 18;
  return std::max<std::int64_t>(1, kMultiplyAddsPerTask / std::max<std::int64_t>(1, multiply_adds_per_row));
}

template <class T>
struct Item {
  Rows<T> rows;
  DotProducts<T> products = dot_products<T>();
  std::vector<float> reciprocal_norm = std::vector<float>(rows.count);
  std::vector<RowState> state = std::vector<RowState>(rows.count);
  std::vector<std::uint8_t> suits_tiles = std::vector<std::uint8_t>(products.suits_tiles ? rows.count : 0);
  std::vector<Signature> signature;  // empty where nothing looks ahead
  // Of each row, the largest similarity to a selected one; before the first pick, to any other row known so far.
  std::vector<float> running_maximum = std::vector<float>(rows.count, -kInfinity);

  float similarity_of(std::int64_t i, std::int64_t j, float dot) const {
    return similarity(dot, reciprocal_norm[i], reciprocal_norm[j]);
  }

  // The dot product of two rows by products.of_row.
  float dot_of_row(std::int64_t i, std::int64_t j) const {
    const T* other = rows.row(j);
    float dot;
    products.of_row(rows.row(i), &other, 1, rows.depth, &dot);
    return dot;
  }

  // The similarity of two rows, given their dot product by products.of_row; slightly less where products.of_tile adds
  // in another order, and its similarity is the one that counts.
  float similarity_lower_bound(std::int64_t i, std::int64_t j, float dot) const {
    return similarity_of(i, j, dot) - (products.one_order ? 0.0f : kOrderMargin);
  }

  // The dot product of two rows, given what products.of_tile says.
  float dot_of(std::int64_t i, std::int64_t j, float of_tile) const {
    if (suits_tiles.empty() || (suits_tiles[i] && suits_tiles[j])) return of_tile;
    return dot_of_row(i, j);
  }
};

// Norms and row states. `weight` is the importance or relevance of each row, null where the method has none. The same
// pass over the rows leaves the dot product of each row i with row companion(i), by products.of_row, in
// companion_dot[i], where there is one (it is not negative), and signatures, where they are wanted.
template <class T, class Parallel, class Companion>
Item<T> prepare(const Rows<T>& rows, const float* weight, const Parallel& parallel, const Companion& companion,
                std::vector<float>& companion_dot, bool with_signatures) {
  Item<T> item{rows};
  item.signature.resize(with_signatures ? rows.count : 0);
  companion_dot.resize(rows.count);
  parallel(rows.count, grain(kFetch * rows.depth), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t other = companion(i);
      const T* against[] = {rows.row(i), rows.row(std::max<std::int64_t>(other, 0))};
      float dots[2];
      item.products.of_row(rows.row(i), against, other < 0 ? 1 : 2, rows.depth, dots);
      if (other >= 0) companion_dot[i] = dots[1];
      // Not finite whenever an element is not: products and sums keep Inf and NaN.
      const bool finite = std::isfinite(dots[0]) && (weight == nullptr || std::isfinite(weight[i]));
      item.state[i] = finite ? RowState::candidate : RowState::non_finite;
      item.reciprocal_norm[i] = finite ? reciprocal_norm(dots[0]) : 0.0f;
      if (with_signatures) item.signature[i] = item.products.signature(rows.row(i), rows.depth);
      if (!item.suits_tiles.empty() && finite)
        item.suits_tiles[i] = item.products.suits_tiles(rows.row(i), rows.depth, dots[0]);
    }
  });
  return item;
}

}  // namespace tokenprune::cpu
