// The comparison of signatures with VPOPCNTDQ, which counts the bits of eight words at a time.
#if defined(__x86_64__)

#include "avx512_vpopcntdq.h"

#include <immintrin.h>

#include "target.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,popcnt,avx512vpopcntdq")))

namespace tokenprune::cpu {
namespace {

// The bits in which two signatures, from `others` on, differ from `both`, which holds another signature twice: a count
// for each word.
TOKENPRUNE_INLINE __m512i differing_bits_of_two(__m512i both, const Signature* others) {
  return _mm512_popcnt_epi64(_mm512_xor_si512(both, _mm512_loadu_si512(others)));
}

TOKENPRUNE_INLINE __m512i add_pairs(__m512i a, __m512i b) {
  return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

TOKENPRUNE_TARGET Pair most_alike(const Signature& signature, const Signature* others, std::int64_t count,
                                  std::int64_t except) {
  constexpr std::int64_t kStep = 8;
  constexpr std::int64_t kPlace[kStep] = {0, 2, 1, 3, 4, 6, 5, 7};  // where the sums below hold signature i
  static_assert(sizeof(Signature) == 32, "a vector holds two signatures");
  const __m512i both =
      _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(signature.words.data())));
  MostAlikePair found;
  std::int64_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const __m512i first =
        add_pairs(differing_bits_of_two(both, others + i), differing_bits_of_two(both, others + i + 2));
    const __m512i last =
        add_pairs(differing_bits_of_two(both, others + i + 4), differing_bits_of_two(both, others + i + 6));
    const __m512i sums =
        _mm512_add_epi64(_mm512_shuffle_i64x2(first, last, 0x88), _mm512_shuffle_i64x2(first, last, 0xdd));
    if (_mm512_cmplt_epi64_mask(sums, _mm512_set1_epi64(found.second)) == 0) continue;
    alignas(64) std::int64_t distances[kStep];
    _mm512_store_si512(distances, sums);
    for (std::int64_t j = 0; j < kStep; ++j) found.see(distances[kPlace[j]], i + j, except);
  }
  for (; i < count; ++i) found.see(differing_bits(signature, others[i]), i, except);
  return found.positions;
}

}  // namespace

MostAlike with_vpopcntdq(MostAlike otherwise) {
  return __builtin_cpu_supports("avx512vpopcntdq") ? most_alike : otherwise;
}

}  // namespace tokenprune::cpu

#endif
