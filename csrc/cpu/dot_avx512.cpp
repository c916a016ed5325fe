// Dot products with AVX-512: one register of 16 lanes, 4 x 4 rows at a time.
#if defined(__x86_64__)

#include <immintrin.h>

#include "similarity.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl")))
#define TOKENPRUNE_INLINE TOKENPRUNE_TARGET __attribute__((always_inline)) static inline

namespace tokenprune::cpu::avx512 {

constexpr int kBlock = 4;

struct Lanes {
  __m512 value;

  TOKENPRUNE_INLINE Lanes zero() { return {_mm512_setzero_ps()}; }

  TOKENPRUNE_INLINE Lanes widen(__m256i bits, const BFloat16*) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  TOKENPRUNE_INLINE Lanes widen(__m256i bits, const Half*) { return {_mm512_cvtph_ps(bits)}; }

  TOKENPRUNE_INLINE Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
  template <class T>
  TOKENPRUNE_INLINE Lanes load(const T* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), p);
  }

  TOKENPRUNE_INLINE __mmask16 first(std::int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
  TOKENPRUNE_INLINE Lanes load_tail(const float* p, std::int64_t count) {
    return {_mm512_maskz_loadu_ps(first(count), p)};
  }
  template <class T>
  TOKENPRUNE_INLINE Lanes load_tail(const T* p, std::int64_t count) {
    return widen(_mm256_maskz_loadu_epi16(first(count), p), p);
  }

  TOKENPRUNE_INLINE Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
    return {_mm512_fmadd_ps(a.value, b.value, c.value)};
  }
  TOKENPRUNE_INLINE Lanes add(Lanes a, Lanes b) { return {_mm512_add_ps(a.value, b.value)}; }

  TOKENPRUNE_TARGET __attribute__((always_inline)) inline void store(float* p) const { _mm512_store_ps(p, value); }
};

#include "dot_tile.inc"

}  // namespace tokenprune::cpu::avx512

#endif
