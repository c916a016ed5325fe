// How many rows are worked on at a time. No result depends on it.
#pragma once

#include <atomic>
#include <cstdint>

namespace tokenprune::cpu {

struct BlockSizes {
  std::int64_t front;       // rows of the greedy loop that are brought up to date at a time
  std::int64_t candidates;  // those of them that are picked from
  std::int64_t outliers;    // rows of the first pick
};

// Set by tests: sizes above 0 are taken instead.
struct ForcedBlockSizes {
  std::atomic<std::int64_t> front{0}, candidates{0}, outliers{0};
};
inline ForcedBlockSizes forced_block_sizes;

inline BlockSizes block_sizes(std::int64_t count) {
  BlockSizes sizes = count < 1024 ? BlockSizes{128, 32, 32} : BlockSizes{256, 64, 32};
  if (const std::int64_t forced = forced_block_sizes.front; forced > 0) sizes.front = forced;
  if (const std::int64_t forced = forced_block_sizes.candidates; forced > 0) sizes.candidates = forced;
  if (const std::int64_t forced = forced_block_sizes.outliers; forced > 0) sizes.outliers = forced;
  return sizes;
}

}  // namespace tokenprune::cpu
