// Kernels for bfloat16 with AVX-512 BF16: each of 16 partial sums takes two neighbouring elements at a time, for 6 x 4
// pairs of rows. The instruction reads and writes subnormals as zeros. Similarities are the same with and without them,
// because norms are clamped at 1e-12, which is far larger.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "avx512_vpopcntdq.h"
#include "kernels.h"
#include "target.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,popcnt,avx512bf16")))

namespace tokenprune::cpu::avx512_bf16 {
namespace {

#include "avx512_lanes.inc"

constexpr int kBlockRows = 6, kBlockColumns = 4, kChunksOfRow = 4;

template <class T>
struct Elements {
  static constexpr std::int64_t kCount = 2 * kLanes;
  __m512i bits;

  TOKENPRUNE_INLINE static Elements load(const T* p) { return {_mm512_loadu_si512(p)}; }
  TOKENPRUNE_INLINE static Elements load_tail(const T* p, std::int64_t count) {
    return {_mm512_maskz_loadu_epi16(static_cast<__mmask32>((1ull << count) - 1), p)};
  }
};

template <class T>
TOKENPRUNE_INLINE Lanes multiply_add(Elements<T> a, Elements<T> b, Lanes c) {
  return {_mm512_dpbf16_ps(c.value, (__m512bh)a.bits, (__m512bh)b.bits)};
}

#include "dot_products.inc"
#include "signature.inc"
#include "subtract_products.inc"

}  // namespace

template <class T>
Kernels<T> kernels() {
  return {of_row<T>, of_tile<T>, pack<T>, signature<T>, with_vpopcntdq(most_alike), subtract_products, kRowsOfTile};
}
template Kernels<BFloat16> kernels<BFloat16>();

}  // namespace tokenprune::cpu::avx512_bf16

#endif
