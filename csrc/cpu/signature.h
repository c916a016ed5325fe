// Sparse sign random projections (SimHash: Charikar, STOC 2002): the more similar two rows are, the more bits of their
// signatures agree. Signatures say which similarities are worth knowing first; no result depends on them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "elements.h"

namespace tokenprune::cpu {

constexpr std::int64_t kSignatureBits = 256;

struct Signature {
  std::array<std::uint64_t, kSignatureBits / 64> words{};
};

constexpr void set_one(bool negative, float& value) { value = negative ? -1.0f : 1.0f; }
constexpr void set_one(bool negative, BFloat16& value) { value.bits = negative ? 0xbf80 : 0x3f80; }
constexpr void set_one(bool negative, Half& value) { value.bits = negative ? 0xbc00 : 0x3c00; }

// The signs that a row's elements are added with, over and over; with them, what all elements have in common cancels.
template <class T>
struct Signs {
  static constexpr std::int64_t kCount = 1024;
  alignas(64) T value[kCount];

  constexpr Signs() : value() {
    std::uint32_t random = 1;  // the seed of Marsaglia's xorshift
    for (T& each : value) {
      random ^= random << 13, random ^= random >> 17, random ^= random << 5;
      set_one(random >> 31, each);
    }
  }
};
template <class T>
inline constexpr Signs<T> kSigns{};

using Pair = std::array<std::int64_t, 2>;

// The numbers of the two of `others`, number `except` left out, that have most bits in common with `signature`. There
// are at least two.
using MostAlike = Pair (*)(const Signature& signature, const Signature* others, std::int64_t count,
                           std::int64_t except);

// That of the current instruction set.
MostAlike most_alike();

// For `except`: all others count.
constexpr std::int64_t kNobody = -1;

// How far signatures are relied on, by one item's search for the first pick or by its greedy loop. Noise has nothing
// for them to tell; then they are soon not asked any more.
class Trust {
 public:
  // How many of `count` rows may be tried.
  std::int64_t tries(std::int64_t count) const {
    if (tries_ < kFirstTries) return std::min(kFirstTries, count);
    return hits_ < tries_ / 4 ? 0 : count;
  }
  // Of so many rows, so many needed no other similarity.
  void add(std::int64_t tries, std::int64_t hits) { tries_ += tries, hits_ += hits; }

 private:
  static constexpr std::int64_t kFirstTries = 64;
  std::int64_t tries_ = 0, hits_ = 0;
};

}  // namespace tokenprune::cpu
