// Cosine similarity from a dot product: one fixed float32 function.
#pragma once

#include <algorithm>
#include <cmath>

namespace tokenprune::cpu {

// Returns 1 / max(|x|, 1e-12), given <x, x>.
inline float reciprocal_norm(float sum_of_squares) { return 1.0f / std::max(std::sqrt(sum_of_squares), 1e-12f); }

// Multiplies the two reciprocal norms first, so that the similarity is symmetric in i and j. Clamps the result: the dot
// product of two finite rows with sums of squares near the largest float can round to infinity.
inline float similarity(float dot, float reciprocal_norm_i, float reciprocal_norm_j) {
  const float cosine = dot * (reciprocal_norm_i * reciprocal_norm_j);
  return std::min(std::max(cosine, -1.0f), 1.0f);
}

}  // namespace tokenprune::cpu
