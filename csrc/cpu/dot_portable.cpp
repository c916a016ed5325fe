// Dot products in plain C++, for any processor: 16 lanes in an array, 2 x 2 rows at a time.
#include "similarity.h"

#define TOKENPRUNE_TARGET

namespace tokenprune::cpu::portable {

constexpr int kBlock = 2;

struct Lanes {
  float value[kLanes];

  static Lanes zero() { return {}; }

  template <class T>
  static Lanes load(const T* p) {
    return load_tail(p, kLanes);
  }
  template <class T>
  static Lanes load_tail(const T* p, std::int64_t count) {
    Lanes lanes{};
    for (std::int64_t i = 0; i < count; ++i) lanes.value[i] = to_float(p[i]);
    return lanes;
  }

  // Two roundings where the vector paths fuse: a fused multiply-add is a slow library call on old processors.
  static Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
    Lanes lanes;
    for (std::int64_t i = 0; i < kLanes; ++i) lanes.value[i] = a.value[i] * b.value[i] + c.value[i];
    return lanes;
  }
  static Lanes add(const Lanes& a, const Lanes& b) {
    Lanes lanes;
    for (std::int64_t i = 0; i < kLanes; ++i) lanes.value[i] = a.value[i] + b.value[i];
    return lanes;
  }

  void store(float* p) const { std::copy_n(value, kLanes, p); }
};

#include "dot_tile.inc"

}  // namespace tokenprune::cpu::portable
