// What a selection whose rows are spread over several processes asks of each of them. The bits are those of a selection
// in one process, since they are computed by the same functions of two rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "item.h"

namespace tokenprune::cpu {

// out[i] = the reciprocal norm of row i, 0 if an element is not finite or the sum of squares overflows.
template <class T>
void reciprocal_norms(const Rows<T>& rows, float* out, const Parallel& parallel) {
  const auto no_extra_row = [](std::int64_t) { return kNoRow; };
  const Item<T> item = prepare(rows, nullptr, no_extra_row, /*with_signatures=*/false, parallel).item;
  std::copy(item.reciprocal_norm.begin(), item.reciprocal_norm.end(), out);
}

// out[i * b.count + j] = the similarity of row i of `a` and row j of `b`, given their reciprocal norms.
template <class T>
void pairwise_similarities(const Rows<T>& a, const float* norm_a, const Rows<T>& b, const float* norm_b, float* out,
                           const Parallel& parallel) {
  constexpr std::int64_t kPanelRows = 512;
  const Kernels<T> kernels = current_kernels<T>();
  Panel<T> panel(a.D, std::min(b.count, kPanelRows));
  Buffer<float> scratch(parallel.threads() * kTileScratch);
  for (std::int64_t first = 0; first < b.count; first += kPanelRows) {
    const std::int64_t columns = std::min(kPanelRows, b.count - first);
    const std::int64_t groups = (columns + kPanelGroup - 1) / kPanelGroup;
    parallel(groups, grain(2 * kLoadCost * kPanelGroup * a.D), [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t group = begin; group < end; ++group) {
        const std::int64_t start = group * kPanelGroup, count = std::min(kPanelGroup, columns - start);
        const T* rows[kPanelGroup];
        for (std::int64_t j = 0; j < count; ++j) rows[j] = b.row(first + start + j);
        kernels.pack(rows, count, panel, start);
      }
    });
    const std::int64_t tiles = (a.count + kernels.tile_rows - 1) / kernels.tile_rows;
    parallel(tiles, grain(kernels.tile_rows * columns * a.D), [&](std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t tile = begin; tile < end; ++tile) {
        const std::int64_t start = tile * kernels.tile_rows, count = std::min(kernels.tile_rows, a.count - start);
        const T* rows[kTileRows];
        for (std::int64_t i = 0; i < count; ++i) rows[i] = a.row(start + i);
        for (std::int64_t column = 0; column < columns; column += kTileColumns) {
          const std::int64_t width = std::min(kTileColumns, columns - column);
          float* values = out + start * b.count + first + column;
          kernels.of_tile(rows, count, panel, column, width, scratch.data() + thread * kTileScratch, values, b.count);
          for (std::int64_t i = 0; i < count; ++i)
            for (std::int64_t j = 0; j < width; ++j) {
              float& value = values[i * b.count + j];
              value = similarity(value, norm_a[start + i], norm_b[first + column + j]);
            }
        }
      }
    });
  }
}

}  // namespace tokenprune::cpu
