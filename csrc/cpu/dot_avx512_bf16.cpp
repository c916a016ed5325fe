// Dot products of bfloat16 rows with AVX-512 BF16: each of 16 lanes takes two neighbouring elements at a time, 6 x 4
// rows at a time. The instruction reads and writes subnormals as zeros, which a similarity does not notice: norms are
// clamped at 1e-12, far above.
#if defined(__x86_64__)

#include <immintrin.h>

#include "similarity.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))
#include "lanes_avx512.inc"

namespace tokenprune::cpu::avx512_bf16 {

constexpr int kBlockRows = 6, kBlockColumns = 4;

template <class T>
struct Elements {
  static constexpr std::int64_t kCount = 2 * kLanes;
  __m512i bits;

  TOKENPRUNE_INLINE Elements load(const T* p) { return {_mm512_loadu_si512(p)}; }
  TOKENPRUNE_INLINE Elements load_tail(const T* p, std::int64_t count) {
    return {_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << count) - 1), p)};
  }
};

template <class T>
TOKENPRUNE_INLINE Lanes multiply_add(Elements<T> a, Elements<T> b, Lanes c) {
  return {_mm512_dpbf16_ps(c.value, (__m512bh)a.bits, (__m512bh)b.bits)};
}

#define TOKENPRUNE_ELEMENT_TYPES(use) use(BFloat16)
#include "dot_products.inc"

}  // namespace tokenprune::cpu::avx512_bf16

#endif
