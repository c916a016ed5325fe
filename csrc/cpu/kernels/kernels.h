// The functions of an instruction set: one table for each element type.
//
// The order in which a dot product adds its terms depends on the two rows, their D and type, and the instruction set
// alone. So a dot product has the same bits in every tile, tail, batch and thread, and dot(a, b) == dot(b, a). Terms
// are added in chunks, and then the sums of the chunks. This bounds the rounding error.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elements.h"
#include "panel.h"
#include "rows.h"
#include "signature.h"

namespace tokenprune::cpu {

// The largest tile of dot products, and the floats of scratch memory that its kernel may use.
constexpr std::int64_t kTileRows = 32;
constexpr std::int64_t kTileColumns = 64;
constexpr std::int64_t kTileScratch = kTileRows * kTileColumns * 16;

// Returns the positions of the two `others` whose signatures agree with `signature` in the most bits. Position `except`
// is left out; kNoRow leaves out none. At least two must remain.
using MostAlike = Pair (*)(const Signature& signature, const Signature* others, std::int64_t count,
                           std::int64_t except);

// The inner loop of a Cholesky factorisation that grows row by row: for l = 0, 1, ..., count - 1 in this order and
// every q in [0, width), values[q] -= factors[l * stride_factors] * matrix[l * stride_matrix + q]. Every product and
// every difference is rounded. So a value has the same bits at every width and position, and on every instruction set.
using SubtractProducts = void (*)(float* values, std::int64_t width, const float* factors, std::int64_t stride_factors,
                                  const float* matrix, std::int64_t stride_matrix, std::int64_t count);

template <class T>
struct Kernels {
  // out[j] = dot(a, b[j]). count_b is 1 or 2. Reads a once.
  void (*of_row)(const T* a, const T* const* b, std::int64_t count_b, std::int64_t D, float* out);
  // out[i * stride_out + j] = dot(a[i], row first + j of the panel). At most kTileRows x kTileColumns.
  void (*of_tile)(const T* const* a, std::int64_t count_a, const Panel<T>& panel, std::int64_t first,
                  std::int64_t count_b, float* scratch, float* out, std::int64_t stride_out);
  // Copies `rows` to the rows from `first` on of the panel. They must lie in one group.
  void (*pack)(const T* const* rows, std::int64_t count, Panel<T>& panel, std::int64_t first);
  Signature (*signature)(const T* row, std::int64_t D);
  MostAlike most_alike;
  SubtractProducts subtract_products;
  // The rows of a tile: the fewest that of_tile multiplies at full speed. Small tiles balance threads better.
  std::int64_t tile_rows;
  // Whether of_row and of_tile add terms in the same order. If not, their results differ by rounding.
  bool same_summation_order = true;
};

// Returns the table of isa_for<T>().
template <class T>
Kernels<T> current_kernels();

}  // namespace tokenprune::cpu
