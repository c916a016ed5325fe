// Kernels with AVX-512: 16 partial sums in one register, 6 x 4 pairs of rows at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "avx512_vpopcntdq.h"
#include "kernels.h"
#include "target.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,popcnt")))

namespace tokenprune::cpu::avx512 {
namespace {

#include "avx512_lanes.inc"

constexpr int kBlockRows = 6, kBlockColumns = 4, kChunksOfRow = 4;

template <class T>
struct Elements {
  static constexpr std::int64_t kCount = kLanes;
  __m512 value;

  TOKENPRUNE_INLINE static Elements widen(__m256i bits, const BFloat16*) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  TOKENPRUNE_INLINE static Elements widen(__m256i bits, const Half*) { return {_mm512_cvtph_ps(bits)}; }

  TOKENPRUNE_INLINE static Elements load(const float* p) { return {_mm512_loadu_ps(p)}; }
  template <class U>
  TOKENPRUNE_INLINE static Elements load(const U* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), p);
  }

  TOKENPRUNE_INLINE static __mmask16 first(std::int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
  TOKENPRUNE_INLINE static Elements load_tail(const float* p, std::int64_t count) {
    return {_mm512_maskz_loadu_ps(first(count), p)};
  }
  template <class U>
  TOKENPRUNE_INLINE static Elements load_tail(const U* p, std::int64_t count) {
    return widen(_mm256_maskz_loadu_epi16(first(count), p), p);
  }
};

template <class T>
TOKENPRUNE_INLINE Lanes multiply_add(Elements<T> a, Elements<T> b, Lanes c) {
  return {_mm512_fmadd_ps(a.value, b.value, c.value)};
}

#include "dot_products.inc"
#include "signature.inc"
#include "subtract_products.inc"

}  // namespace

template <class T>
Kernels<T> kernels() {
  return {of_row<T>, of_tile<T>, pack<T>, signature<T>, with_vpopcntdq(most_alike), subtract_products, kRowsOfTile};
}
template Kernels<float> kernels<float>();
template Kernels<BFloat16> kernels<BFloat16>();
template Kernels<Half> kernels<Half>();

}  // namespace tokenprune::cpu::avx512

#endif
