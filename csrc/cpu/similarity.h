// Cosine similarity of two token rows: one fixed float32 function of the rows and their depth.
//
// dot(a, b) adds the products of a chunk of kChunk elements into kLanes partial sums, adds the chunks' partial sums
// lane by lane, and the lanes as a balanced tree, half the lanes to the other half. The order depends on nothing but
// the depth and the instruction set, so a similarity has the same bits in every tile, tail, batch and thread, and
// dot(a, b) == dot(b, a). The chunks bound the rounding error: a lane sees at most kChunk / kLanes + depth / kChunk
// additions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elements.h"
#include "panel.h"

namespace tokenprune::cpu {

constexpr std::int64_t kLanes = 16;

// The dot products of the current instruction set.
template <class T>
struct DotProducts {
  // out[j] = dot(a, b[j]) for the one or two rows of b, read once.
  void (*of_row)(const T* a, const T* const* b, std::int64_t count_b, std::int64_t depth, float* out);
  // out[i * stride_out + j] = dot(a[i], b_j), b_j being row columns[j] of the panel. `lanes` is scratch for
  // count_a * count_b * kLanes partial sums.
  void (*of_tile)(const T* const* a, std::int64_t count_a, const Panel<T>& panel, const std::int32_t* columns,
                  std::int64_t count_b, float* lanes, float* out, std::int64_t stride_out);
};

template <class T>
DotProducts<T> dot_products();

// 1 / max(|x|, 1e-12), given <x, x>.
inline float reciprocal_norm(float sum_of_squares) { return 1.0f / std::max(std::sqrt(sum_of_squares), 1e-12f); }

// Symmetric in i and j: the two reciprocal norms are multiplied first. Clamped, because the dot product of two finite
// rows whose sums of squares are next to the largest float can round to infinity.
inline float similarity(float dot, float reciprocal_norm_i, float reciprocal_norm_j) {
  const float cosine = dot * (reciprocal_norm_i * reciprocal_norm_j);
  return std::min(std::max(cosine, -1.0f), 1.0f);
}

}  // namespace tokenprune::cpu
