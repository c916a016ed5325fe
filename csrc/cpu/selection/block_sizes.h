// How many rows are processed at a time. No result depends on these sizes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/isa.h"
#include "kernels/kernels.h"

namespace tokenprune::cpu {

struct BlockSizes {
  std::int64_t frontier;          // rows that a round of the lazy greedy selection refreshes
  std::int64_t picks_per_update;  // picks that they are compared with before their bounds are checked
  std::int64_t candidates;        // rows that a round picks from
  std::int64_t outlier_block;     // rows that the search for the first pick compares with all others together
  std::int64_t pruned_chunk;      // ruled-out rows that the rest of such a block is compared with per step
  std::int64_t signature_after;  // a row that misses at least this many picks tries those with similar signatures first
  std::int64_t grouped_rows;     // from so many rows on, the search for the first pick compares rows within groups
};

// Sizes that tests set, while no selection runs. A size of 0 is not forced.
inline BlockSizes forced_block_sizes{};

template <class T>
BlockSizes block_sizes(const Rows<T>& rows) {
  constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t kManyRows = 16384;
  const bool small = rows.count < 2048;
  // Measured on a processor with AVX-512 BF16, where dot products dominate the time of a round.
  BlockSizes sizes =
      small ? BlockSizes{96, 16, 32, 64, 512, 16, kManyRows} : BlockSizes{256, 16, 64, 64, 512, 16, kManyRows};
  // Not measured. AMX multiplies so fast that fewer, larger rounds should pay. Copying a row for a few products, or
  // comparing its signature, should take longer than the products themselves.
  if (isa_for<T>() == Isa::amx)
    sizes = small ? BlockSizes{256, 64, 64, 64, 512, kNever, kManyRows}
                  : BlockSizes{512, 64, 128, 64, 512, kNever, kManyRows};
  // A dot product of shorter rows takes about as long as the comparison of two signatures.
  constexpr std::int64_t kLongRow = 1536;
  if (rows.D < kLongRow) sizes.signature_after = kNever;
  for (const auto size :
       {&BlockSizes::frontier, &BlockSizes::picks_per_update, &BlockSizes::candidates, &BlockSizes::outlier_block,
        &BlockSizes::pruned_chunk, &BlockSizes::signature_after, &BlockSizes::grouped_rows})
    if (forced_block_sizes.*size > 0) sizes.*size = forced_block_sizes.*size;
  sizes.picks_per_update = std::min(sizes.picks_per_update, kTileColumns);
  return sizes;
}

// Returns whether to compute signatures, if a row is compared with up to `others` rows.
template <class T>
bool wants_signatures(const Rows<T>& rows, std::int64_t others) {
  return rows.count > 2 && block_sizes(rows).signature_after < others;
}

}  // namespace tokenprune::cpu
