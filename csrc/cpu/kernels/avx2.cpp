// Kernels with AVX2, FMA and F16C: 16 partial sums in two registers, 2 x 2 pairs of rows at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels.h"
#include "target.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx2,fma,f16c,popcnt")))

namespace tokenprune::cpu::avx2 {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr int kBlockRows = 2, kBlockColumns = 2, kChunksOfRow = 2;

struct Lanes {
  __m256 low, high;

  TOKENPRUNE_INLINE static Lanes zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  TOKENPRUNE_INLINE static Lanes load(const float* p) { return {_mm256_load_ps(p), _mm256_load_ps(p + 8)}; }
  TOKENPRUNE_INLINE static Lanes add(Lanes a, Lanes b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  TOKENPRUNE_INLINE static void sums(const float* lanes, std::int64_t count, float* out) {
    for (std::int64_t j = 0; j < count; ++j, lanes += kLanes) {
      const __m256 eight = _mm256_add_ps(_mm256_load_ps(lanes), _mm256_load_ps(lanes + 8));
      const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
      const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
      out[j] = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
  }
  TOKENPRUNE_INLINE void store(float* p) const {
    _mm256_store_ps(p, low);
    _mm256_store_ps(p + 8, high);
  }
  TOKENPRUNE_INLINE std::uint16_t signs() const {
    return static_cast<std::uint16_t>(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
  }
};

template <class T>
struct Elements {
  static constexpr std::int64_t kCount = kLanes;
  __m256 low, high;

  TOKENPRUNE_INLINE static __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
  TOKENPRUNE_INLINE static __m256 load8(const BFloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  TOKENPRUNE_INLINE static __m256 load8(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }

  TOKENPRUNE_INLINE static Elements load(const T* p) { return {load8(p), load8(p + 8)}; }
  TOKENPRUNE_INLINE static Elements load_tail(const T* p, std::int64_t count) {
    T padded[kLanes] = {};
    std::copy_n(p, count, padded);
    return load(padded);
  }
};

template <class T>
TOKENPRUNE_INLINE Lanes multiply_add(Elements<T> a, Elements<T> b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
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

}  // namespace tokenprune::cpu::avx2

#endif
