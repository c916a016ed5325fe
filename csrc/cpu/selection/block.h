// Rows of an item that are packed, and the similarities of other rows to them.
#pragma once

#include <algorithm>
#include <vector>

#include "item.h"

namespace tokenprune::cpu {

template <class T>
class Block {
 public:
  Block(const Item<T>& item, std::int64_t capacity, int threads)
      : item_(item),
        capacity_(std::min(capacity, item.rows.count)),
        panel_(item.rows.D, capacity_),
        scratch_(threads * kTileScratch),
        values_(threads * kTileRows * kTileColumns) {}

  std::int64_t capacity() const { return capacity_; }
  std::int64_t size() const { return static_cast<std::int64_t>(rows_.size()); }
  std::int64_t row(std::int64_t position) const { return rows_[position]; }

  void clear() { rows_.clear(); }

  void append(const std::vector<std::int64_t>& rows, const Parallel& parallel) {
    const std::int64_t before = size();
    rows_.insert(rows_.end(), rows.begin(), rows.end());
    const std::int64_t first_group = before / kPanelGroup, groups = (size() + kPanelGroup - 1) / kPanelGroup;
    const std::int64_t cost = 2 * kLoadCost * kPanelGroup * item_.rows.D;  // a load and a store of every element
    parallel(groups - first_group, grain(cost), [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t group = first_group + begin; group < first_group + end; ++group) {
        const std::int64_t first = std::max(before, group * kPanelGroup);
        const std::int64_t last = std::min(size(), (group + 1) * kPanelGroup);
        const T* packed[kPanelGroup];
        for (std::int64_t i = first; i < last; ++i) packed[i - first] = item_.rows.row(rows_[i]);
        item_.kernels.pack(packed, last - first, panel_, first);
      }
    });
  }

  // Computes the similarities of every row i of `others` to the rows of this block from position first_of(i) on, in
  // parts that end at the multiples of `columns`. Calls visit(i, values, first, count, thread) for each part: values[j]
  // is the similarity to the row at position first + j. visit returns whether row i needs the next part.
  //
  // Rows are multiplied in tiles, and a tile starts at the first_of of its first row. Sort `others` by first_of, so
  // that no row starts later than it must.
  template <class FirstOf, class Visit>
  void similarities(const std::vector<std::int64_t>& others, const FirstOf& first_of, std::int64_t columns,
                    const Parallel& parallel, const Visit& visit) {
    if (others.empty()) return;
    const std::int64_t tile_rows = item_.kernels.tile_rows;
    const std::int64_t tiles = (others.size() + tile_rows - 1) / tile_rows;
    const std::int64_t multiply_adds = tile_rows * (size() - first_of(others[0])) * item_.rows.D;
    parallel(tiles, grain(multiply_adds), [&](std::int64_t begin, std::int64_t end, int thread) {
      float* values = values_.data() + thread * kTileRows * kTileColumns;
      for (std::int64_t tile = begin; tile < end; ++tile) {
        std::int64_t rows[kTileRows];
        std::int64_t row_count = std::min<std::int64_t>(tile_rows, others.size() - tile * tile_rows);
        std::copy_n(others.data() + tile * tile_rows, row_count, rows);
        each_part(first_of(rows[0]), columns, [&](std::int64_t first, std::int64_t count) {
          multiply(rows, row_count, first, count, values, kTileColumns, thread);
          std::int64_t left = 0;
          for (std::int64_t i = 0; i < row_count; ++i)
            if (visit(rows[i], values + i * kTileColumns, first, count, thread)) rows[left++] = rows[i];
          row_count = left;
          return row_count > 0;
        });
      }
    });
  }

  // matrix[a * capacity + b] = the similarity of the block's rows at positions a and b.
  void gram(float* matrix, const Parallel& parallel) {
    const std::int64_t strip_rows = std::min(item_.kernels.tile_rows, kPanelGroup);
    const std::int64_t strips = (size() + strip_rows - 1) / strip_rows;
    parallel(
        strips, grain(strip_rows * size() / 2 * item_.rows.D), [&](std::int64_t begin, std::int64_t end, int thread) {
          for (std::int64_t strip = begin; strip < end; ++strip) {
            const std::int64_t a0 = strip * strip_rows, a1 = std::min(a0 + strip_rows, size());
            each_part(a0, kTileColumns, [&](std::int64_t first, std::int64_t count) {
              multiply(rows_.data() + a0, a1 - a0, first, count, matrix + a0 * capacity_ + first, capacity_, thread);
              for (std::int64_t a = a0; a < a1; ++a)
                for (std::int64_t b = first; b < first + count; ++b)
                  matrix[b * capacity_ + a] = matrix[a * capacity_ + b];
              return true;
            });
          }
        });
  }

 private:
  // Splits the positions from `first` on at the multiples of `columns`. Calls body(first, count) for each part until it
  // returns false.
  template <class Body>
  void each_part(std::int64_t first, std::int64_t columns, const Body& body) const {
    while (first < size()) {
      const std::int64_t end = std::min((first / columns + 1) * columns, size());
      if (!body(first, end - first)) return;
      first = end;
    }
  }

  void multiply(const std::int64_t* others, std::int64_t count_others, std::int64_t first, std::int64_t count,
                float* values, std::int64_t stride, int thread) {
    const T* rows[kTileRows];
    for (std::int64_t i = 0; i < count_others; ++i) rows[i] = item_.rows.row(others[i]);
    item_.kernels.of_tile(rows, count_others, panel_, first, count, scratch_.data() + thread * kTileScratch, values,
                          stride);
    for (std::int64_t i = 0; i < count_others; ++i)
      for (std::int64_t j = 0; j < count; ++j) {
        float& value = values[i * stride + j];
        value = item_.similarity_of(others[i], rows_[first + j], value);
      }
  }

  const Item<T>& item_;
  std::int64_t capacity_;
  Panel<T> panel_;
  Buffer<float> scratch_, values_;
  std::vector<std::int64_t> rows_;
};

}  // namespace tokenprune::cpu
