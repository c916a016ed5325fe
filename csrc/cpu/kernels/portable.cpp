// Kernels in plain C++, for any processor: 16 partial sums in an array, 2 x 2 pairs of rows at a time.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"

#define TOKENPRUNE_TARGET

namespace tokenprune::cpu::portable {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr int kBlockRows = 2, kBlockColumns = 2, kChunksOfRow = 2;

struct Lanes {
  float value[kLanes];

  static Lanes zero() { return {}; }
  static Lanes load(const float* p) {
    Lanes lanes;
    std::copy_n(p, kLanes, lanes.value);
    return lanes;
  }
  static Lanes add(const Lanes& a, const Lanes& b) {
    Lanes lanes;
    for (std::int64_t i = 0; i < kLanes; ++i) lanes.value[i] = a.value[i] + b.value[i];
    return lanes;
  }
  static void sums(const float* lanes, std::int64_t count, float* out) {
    for (std::int64_t j = 0; j < count; ++j, lanes += kLanes) {
      Lanes tree = load(lanes);
      for (std::int64_t width = kLanes / 2; width > 0; width /= 2)
        for (std::int64_t i = 0; i < width; ++i) tree.value[i] += tree.value[i + width];
      out[j] = tree.value[0];
    }
  }
  void store(float* p) const { std::copy_n(value, kLanes, p); }
  std::uint16_t signs() const {
    std::uint16_t bits = 0;
    for (std::int64_t i = 0; i < kLanes; ++i) bits |= static_cast<std::uint16_t>(std::signbit(value[i]) << i);
    return bits;
  }
};

template <class T>
struct Elements {
  static constexpr std::int64_t kCount = kLanes;
  float value[kLanes];

  static Elements load(const T* p) { return load_tail(p, kLanes); }
  static Elements load_tail(const T* p, std::int64_t count) {
    Elements elements{};
    for (std::int64_t i = 0; i < count; ++i) elements.value[i] = to_float(p[i]);
    return elements;
  }
};

// Rounds the product and the sum, where the vector paths fuse them: a fused multiply-add is a slow library call on old
// processors.
template <class T>
Lanes multiply_add(const Elements<T>& a, const Elements<T>& b, const Lanes& c) {
  Lanes lanes;
  for (std::int64_t i = 0; i < kLanes; ++i) lanes.value[i] = a.value[i] * b.value[i] + c.value[i];
  return lanes;
}

#include "dot_products.inc"
#include "signature.inc"
#include "subtract_products.inc"

}  // namespace

template <class T>
Kernels<T> kernels() {
  return {of_row<T>, of_tile<T>, pack<T>, signature<T>, most_alike, subtract_products, kRowsOfTile};
}
template Kernels<float> kernels<float>();
template Kernels<BFloat16> kernels<BFloat16>();
template Kernels<Half> kernels<Half>();

}  // namespace tokenprune::cpu::portable
