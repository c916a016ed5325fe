// How many rows are worked on at a time. No result depends on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <limits>

#include "isa.h"
#include "rows.h"
#include "similarity.h"

namespace tokenprune::cpu {

struct BlockSizes {
  std::int64_t front;       // rows of the greedy loop that are brought up to date at a time
  std::int64_t part;        // picks that they take in at a time, at most kTileColumns
  std::int64_t candidates;  // those of them that are picked from
  std::int64_t outliers;    // rows of the first pick
  std::int64_t buried;      // rows that cannot be the first pick, with which those that may are compared at a time
  // Picks that a row must lack before its signature is asked which of them are like it.
  std::int64_t signature_after;
};

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();

// Set by tests: sizes above 0 are taken instead.
inline std::atomic<std::int64_t> forced_block_sizes[6]{};

template <class T>
BlockSizes block_sizes(const Rows<T>& rows) {
  const bool small = rows.count < 2048;
  // Measured on an AVX-512 BF16 processor, where a round costs little beside its products.
  BlockSizes sizes = small ? BlockSizes{96, 16, 32, 64, 512, 16} : BlockSizes{256, 16, 64, 64, 512, 16};
  // Not measured: with tiles, products are so fast that fewer rounds should pay for more of them, and copying a row for
  // a few of them, or asking its signature, would take longer than they do.
  if (current_isa() == Isa::amx)
    sizes = small ? BlockSizes{256, 64, 64, 64, 512, kNever} : BlockSizes{512, 64, 128, 64, 512, kNever};
  constexpr std::int64_t kLongRow = 1536;  // shorter ones are compared about as fast as their signatures
  if (rows.depth < kLongRow) sizes.signature_after = kNever;
  std::int64_t* const each[] = {&sizes.front,    &sizes.part,   &sizes.candidates,
                                &sizes.outliers, &sizes.buried, &sizes.signature_after};
  for (int i = 0; i < 6; ++i)
    if (const std::int64_t forced = forced_block_sizes[i]; forced > 0) *each[i] = forced;
  sizes.part = std::min(sizes.part, kTileColumns);
  return sizes;
}

// Whether signatures are worth making where a row may have so many others to be compared with.
template <class T>
bool wants_signatures(const Rows<T>& rows, std::int64_t others) {
  return rows.count > 2 && block_sizes(rows).signature_after < others;
}

}  // namespace tokenprune::cpu
