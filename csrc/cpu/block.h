// Rows gathered from an item, and the similarities of others to them.
#pragma once

#include <numeric>

#include "item.h"

namespace tokenprune::cpu {

// Positions of rows in a block.
struct Columns {
  const std::int32_t* positions;
  std::int64_t count;
};

template <class T>
class Block {
 public:
  Block(const Item<T>& item, std::int64_t capacity, int threads)
      : item_(item),
        capacity_(std::min(capacity, item.rows.count)),
        panel_(item.rows.depth, capacity_),
        positions_(capacity_),
        lanes_(threads * kTileRows * kTileColumns * kLanes),
        values_(threads * kTileRows * kTileColumns) {
    std::iota(positions_.begin(), positions_.end(), 0);
  }

  std::int64_t capacity() const { return capacity_; }
  std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  std::int64_t row(std::int64_t position) const { return rows_[position]; }
  Columns columns(std::int64_t first = 0) const { return {positions_.data() + first, size() - first}; }

  void clear() { rows_.clear(); }

  template <class Parallel>
  void append(const std::vector<std::int64_t>& rows, Parallel& parallel) {
    const std::int64_t before = size();
    rows_.insert(rows_.end(), rows.begin(), rows.end());
    parallel(size() - before, grain(item_.rows.depth), [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t position = before + begin; position < before + end; ++position)
        panel_.put(position, item_.rows.row(rows_[position]));
    });
  }

  // visit(i, values, part, thread) for every row i of `others` and some parts of its columns: values[j] is its
  // similarity to the block's row at part.positions[j]. The columns are columns_of(i) for the first of a few rows i
  // that are worked on together; those of the first row of all should be the most.
  template <class Parallel, class ColumnsOf, class Visit>
  void similarities(const std::vector<std::int64_t>& others, const ColumnsOf& columns_of, Parallel& parallel,
                    const Visit& visit) {
    if (others.empty()) return;
    const std::int64_t tiles = (others.size() + kTileRows - 1) / kTileRows;
    const std::int64_t multiply_adds = kTileRows * columns_of(others[0]).count * item_.rows.depth;
    parallel(tiles, grain(multiply_adds), [&](std::int64_t begin, std::int64_t end, int thread) {
      float* values = values_.data() + thread * kTileRows * kTileColumns;
      for (std::int64_t tile = begin; tile < end; ++tile) {
        const std::int64_t* rows = others.data() + tile * kTileRows;
        const std::int64_t count = std::min<std::int64_t>(kTileRows, others.size() - tile * kTileRows);
        const Columns columns = columns_of(rows[0]);
        for (std::int64_t first = 0; first < columns.count; first += kTileColumns) {
          const Columns part{columns.positions + first, std::min(kTileColumns, columns.count - first)};
          multiply(rows, count, part, values, kTileColumns, thread);
          for (std::int64_t i = 0; i < count; ++i) visit(rows[i], values + i * kTileColumns, part, thread);
        }
      }
    });
  }

  // matrix[a * capacity + b] = similarity of the block's rows a and b.
  template <class Parallel>
  void gram(float* matrix, Parallel& parallel) {
    const std::int64_t tiles = (size() + kGramEdge - 1) / kGramEdge;
    const auto visit = [&](std::int64_t tile_a, std::int64_t tile_b, int thread) {
      const std::int64_t a0 = tile_a * kGramEdge, a1 = std::min(a0 + kGramEdge, size());
      const std::int64_t b0 = tile_b * kGramEdge, b1 = std::min(b0 + kGramEdge, size());
      multiply(rows_.data() + a0, a1 - a0, {positions_.data() + b0, b1 - b0}, matrix + a0 * capacity_ + b0, capacity_,
               thread);
      for (std::int64_t a = a0; a < a1; ++a)
        for (std::int64_t b = b0; b < b1; ++b) matrix[b * capacity_ + a] = matrix[a * capacity_ + b];
    };
    // The pairs of tiles (a, b), a <= b, numbered row by row of the triangle.
    parallel(tiles * (tiles + 1) / 2, grain(kGramEdge * kGramEdge * item_.rows.depth),
             [&](std::int64_t begin, std::int64_t end, int thread) {
               std::int64_t a = 0, b = begin;
               while (b >= tiles) b += ++a - tiles;
               for (std::int64_t pair = begin; pair < end; ++pair) {
                 visit(a, b, thread);
                 if (++b == tiles) b = ++a;
               }
             });
  }

 private:
  static constexpr std::int64_t kTileRows = 32;
  static constexpr std::int64_t kTileColumns = 64;
  static constexpr std::int64_t kGramEdge = 16;

  void multiply(const std::int64_t* others, std::int64_t size, Columns columns, float* values, std::int64_t stride,
                int thread) {
    const T* rows[kTileRows];
    for (std::int64_t i = 0; i < size; ++i) rows[i] = item_.rows.row(others[i]);
    float* lanes = lanes_.data() + thread * kTileRows * kTileColumns * kLanes;
    item_.products.of_tile(rows, size, panel_, columns.positions, columns.count, lanes, values, stride);
    for (std::int64_t i = 0; i < size; ++i)
      for (std::int64_t j = 0; j < columns.count; ++j) {
        float& value = values[i * stride + j];
        value = item_.similarity_of(others[i], rows_[columns.positions[j]], value);
      }
  }

  const Item<T>& item_;
  std::int64_t capacity_;
  Panel<T> panel_;
  std::vector<std::int32_t> positions_;
  Buffer<float> lanes_, values_;
  std::vector<std::int64_t> rows_;
};

}  // namespace tokenprune::cpu
