// How many rows are worked on at a time. No result depends on it.
#pragma once

#include <atomic>
#include <cstdint>

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
  BlockSizes sizes = count < 1024 ? BlockSizes{128, 16, 32, 64, 512} : BlockSizes{256, 16, 64, 64, 512};
  std::int64_t* const each[] = {&sizes.front, &sizes.part, &sizes.candidates, &sizes.outliers, &sizes.buried};
  for (int i = 0; i < 5; ++i)
    if (const std::int64_t forced = forced_block_sizes[i]; forced > 0) *each[i] = forced;
  sizes.part = std::min(sizes.part, kTileColumns);
  return sizes;
}

}  // namespace tokenprune::cpu
