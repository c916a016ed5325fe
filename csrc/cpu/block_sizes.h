// How many rows are worked on at a time. No result depends on it.
#pragma once

#include <atomic>
#include <cstdint>

#include "isa.h"
#include "similarity.h"

namespace tokenprune::cpu {

struct BlockSizes {
  std::int64_t front;       // rows of the greedy loop that are brought up to date at a time
  std::int64_t part;        // picks that they take in at a time, at most kTileColumns
  std::int64_t candidates;  // those of them that are picked from
  std::int64_t outliers;    // rows of the first pick
  std::int64_t buried;      // rows that cannot be the first pick, with which those that may are compared at a time
};

// Set by tests: sizes above 0 are taken instead.
inline std::atomic<std::int64_t> forced_block_sizes[5]{};

inline BlockSizes block_sizes(std::int64_t count) {
  const bool small = count < 1024;
  // Measured on an AVX-512 BF16 processor, where a round costs little beside its products. With 32 rows of the first
  // pick, clusters take a twelfth less of the whole, noise as much more.
  BlockSizes sizes = small ? BlockSizes{128, 16, 32, 64, 512} : BlockSizes{256, 16, 64, 64, 512};
  // Not measured: with tiles, products are so fast that fewer rounds should pay for more of them, and copying a row for
  // a few of them would take longer than they do.
  if (current_isa() == Isa::amx) sizes = small ? BlockSizes{256, 64, 64, 64, 512} : BlockSizes{512, 64, 128, 64, 512};
  std::int64_t* const each[] = {&sizes.front, &sizes.part, &sizes.candidates, &sizes.outliers, &sizes.buried};
  for (int i = 0; i < 5; ++i)
    if (const std::int64_t forced = forced_block_sizes[i]; forced > 0) *each[i] = forced;
  sizes.part = std::min(sizes.part, kTileColumns);
  return sizes;
}

}  // namespace tokenprune::cpu
