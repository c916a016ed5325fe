// One item of a batch: its rows, and what every method needs to know of each row.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/kernels.h"
#include "similarity.h"
#include "threads/parallel.h"

namespace tokenprune::cpu {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows that are not selected yet are finite or not.
enum class RowState : std::uint8_t { finite, non_finite, selected };

// An upper bound on the difference between the two similarities of a pair, by of_row and by of_tile.
constexpr float kTileError = 2e-5f;

// The cost of loading one element from memory, in multiply-adds on cached data.
constexpr std::int64_t kLoadCost = 8;

// Returns how many rows make a task that is large enough to hand to a thread.
inline std::int64_t grain(std::int64_t multiply_adds_per_row) {
  constexpr std::int64_t kMultiplyAddsPerTask = 1 << 18;
  return std::max<std::int64_t>(1, kMultiplyAddsPerTask / std::max<std::int64_t>(1, multiply_adds_per_row));
}

template <class T>
struct Item {
  Rows<T> rows;
  Kernels<T> kernels = current_kernels<T>();
  std::vector<float> reciprocal_norm = std::vector<float>(rows.count);
  std::vector<RowState> state = std::vector<RowState>(rows.count);
  std::vector<Signature> signature;  // empty if the selection does not use signatures

  float similarity_of(std::int64_t i, std::int64_t j, float dot) const {
    return similarity(dot, reciprocal_norm[i], reciprocal_norm[j]);
  }

  // Returns the dot product of two rows by kernels.of_row.
  float dot_of_row(std::int64_t i, std::int64_t j) const {
    const T* other = rows.row(j);
    float dot;
    kernels.of_row(rows.row(i), &other, 1, rows.D, &dot);
    return dot;
  }

  // Returns a lower bound on the similarity of two rows, given their dot product by kernels.of_row. The similarity
  // itself is defined by kernels.of_tile; the bound is equal to it if both add in the same order.
  float similarity_lower_bound(std::int64_t i, std::int64_t j, float dot) const {
    return similarity_of(i, j, dot) - (kernels.same_summation_order ? 0.0f : kTileError);
  }
};

template <class T>
struct Prepared {
  Item<T> item;
  std::vector<float> extra_dots;
};

// Computes norms, row states and, if wanted, signatures, in one pass over the rows. `weight` is the importance or the
// relevance of each row, null if the method has none. The same pass computes extra_dots[i], the dot product by
// kernels.of_row of row i and row extra_row(i), unless that is kNoRow.
template <class T, class ExtraRow>
Prepared<T> prepare(const Rows<T>& rows, const float* weight, const ExtraRow& extra_row, bool with_signatures,
                    const Parallel& parallel) {
  Prepared<T> prepared{Item<T>{rows}, std::vector<float>(rows.count)};
  Item<T>& item = prepared.item;
  item.signature.resize(with_signatures ? rows.count : 0);
  parallel(rows.count, grain(kLoadCost * rows.D), [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t extra = extra_row(i);
      const T* others[] = {rows.row(i), rows.row(extra == kNoRow ? i : extra)};
      float dots[2];
      item.kernels.of_row(rows.row(i), others, extra == kNoRow ? 1 : 2, rows.D, dots);
      if (extra != kNoRow) prepared.extra_dots[i] = dots[1];
      // Products and sums keep Inf and NaN, so one non-finite element makes the sum of squares non-finite.
      const bool finite = std::isfinite(dots[0]) && (weight == nullptr || std::isfinite(weight[i]));
      item.state[i] = finite ? RowState::finite : RowState::non_finite;
      item.reciprocal_norm[i] = finite ? reciprocal_norm(dots[0]) : 0.0f;
      if (with_signatures) item.signature[i] = item.kernels.signature(rows.row(i), rows.D);
    }
  });
  return prepared;
}

}  // namespace tokenprune::cpu
