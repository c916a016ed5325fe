// The element types of token rows and their exact conversion to float.
#pragma once

#include <cstdint>
#include <cstring>

namespace tokenprune::cpu {

struct BFloat16 {
  std::uint16_t bits;
};

struct Half {
  std::uint16_t bits;
};

inline float from_bits(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float to_float(float value) { return value; }

inline float to_float(BFloat16 value) { return from_bits(std::uint32_t{value.bits} << 16); }

inline float to_float(Half value) {
  const std::uint32_t sign = std::uint32_t{value.bits & 0x8000u} << 16;
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return from_bits(sign | 0x7f800000u | (magnitude << 13));  // Inf and NaN keep their payload
  // The shifted bits read as a float that is too small by 2^112. The product is exact, also for subnormal halves.
  return from_bits(sign | 0x3f800000u) * (from_bits(magnitude << 13) * 0x1p112f);
}

}  // namespace tokenprune::cpu
