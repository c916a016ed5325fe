// Sparse sign random projections (SimHash: Charikar, STOC 2002). The more similar two rows are, the more bits of their
// signatures agree. Signatures decide which similarities are computed first. No result depends on them.
#pragma once

#include <array>
#include <cstdint>

#include "elements.h"

namespace tokenprune::cpu {

constexpr std::int64_t kSignatureBits = 256;

struct Signature {
  std::array<std::uint64_t, kSignatureBits / 64> words{};
};

// The number of bits in which two signatures differ. Always inlined, so that it is compiled for the instructions of its
// caller.
__attribute__((always_inline)) inline std::int64_t differing_bits(const Signature& a, const Signature& b) {
  std::int64_t count = 0;
  for (std::size_t word = 0; word < a.words.size(); ++word)
    count += __builtin_popcountll(a.words[word] ^ b.words[word]);
  return count;
}

constexpr void set_one(bool negative, float& value) { value = negative ? -1.0f : 1.0f; }
constexpr void set_one(bool negative, BFloat16& value) { value.bits = negative ? 0xbf80 : 0x3f80; }
constexpr void set_one(bool negative, Half& value) { value.bits = negative ? 0xbc00 : 0x3c00; }

// The signs by which a row's elements are multiplied; longer rows repeat them. Because signs are mixed, a constant that
// all elements share cancels.
template <class T>
struct Signs {
  static constexpr std::int64_t kCount = 1024;
  alignas(64) T value[kCount];

  constexpr Signs() : value() {
    std::uint32_t random = 1;  // the state of Marsaglia's xorshift
    for (T& each : value) {
      random ^= random << 13, random ^= random >> 17, random ^= random << 5;
      set_one(random >> 31, each);
    }
  }
};
template <class T>
inline constexpr Signs<T> kSigns{};

using Pair = std::array<std::int64_t, 2>;

// The two of a list of signatures that differ least from another, the first of equals first.
struct MostAlikePair {
  std::int64_t nearest = kSignatureBits + 1, second = nearest;
  Pair positions{};

  void see(std::int64_t distance, std::int64_t position, std::int64_t except) {
    if (distance >= second || position == except) return;
    if (distance < nearest) {
      second = nearest, positions[1] = positions[0];
      nearest = distance, positions[0] = position;
    } else {
      second = distance, positions[1] = position;
    }
  }
};

}  // namespace tokenprune::cpu
