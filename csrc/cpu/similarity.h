// Cosine similarity of two token rows: one fixed float32 function of the rows and their depth.
//
// The order in which a dot product's terms are added depends on nothing but the two rows, their depth and type, and the
// instruction set, so a similarity has the same bits in every tile, tail, batch and thread, and dot(a, b) == dot(b, a).
// Terms are added in chunks, and the chunks to each other, which bounds the rounding error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elements.h"
#include "panel.h"
#include "signature.h"

namespace tokenprune::cpu {

// The most rows of a tile of similarities, and its most columns.
constexpr std::int64_t kTileRows = 32;
constexpr std::int64_t kTileColumns = 64;
// Floats that a tile's products may use as scratch.
constexpr std::int64_t kTileScratch = kTileRows * kTileColumns * 16;

// The dot products of an instruction set.
template <class T>
struct DotProducts {
  // out[j] = dot(a, b[j]) for the one or two rows of b, read once.
  void (*of_row)(const T* a, const T* const* b, std::int64_t count_b, std::int64_t depth, float* out);
  // out[i * stride_out + j] = dot(a[i], row number first + j of the panel), for a tile.
  void (*of_tile)(const T* const* a, std::int64_t count_a, const Panel& panel, std::int64_t first, std::int64_t count_b,
                  float* scratch, float* out, std::int64_t stride_out);
  // Rows number first, first + 1, ... of the panel, all of one group, become copies of `rows`.
  void (*pack)(const T* const* rows, std::int64_t count, Panel& panel, std::int64_t first);
  Signature (*signature)(const T* row, std::int64_t depth);
  // Rows of a tile: no more than multiply fast, so that there are tiles for all threads and each ends soon.
  std::int64_t tile_rows;
  std::int64_t panel_element_bytes = sizeof(T);
  // Whether of_row and of_tile add in the same order. Otherwise of_row is close to of_tile, no more.
  bool one_order = true;
  // Where not null: whether of_tile is accurate for a row. Products with a row for which it is not are of_row's.
  bool (*suits_tiles)(const T* row, std::int64_t depth, float sum_of_squares) = nullptr;
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
