// Tiles of dot products for bfloat16 with AMX: 16 rows times 16 rows, 32 elements at a time, added in float32.
//
// An instruction adds the products of 16 even elements in order, those of 16 odd elements in order, and the two sums to
// the total. The totals of chunks are added one after the other. This is another order than that of AVX-512 BF16, which
// computes the dot products of single rows. Subnormals count as zeros. Similarities are the same with and without them,
// because norms are clamped at 1e-12, which is far larger.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#include "kernels.h"
#include "target.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,amx-tile,amx-bf16")))

namespace tokenprune::cpu {

namespace avx512_bf16 {
template <class T>
Kernels<T> kernels();
}

namespace amx {
namespace {

constexpr int kEdge = 16;                          // rows of a tile
constexpr std::int64_t kStep = 32;                 // elements of a row of a tile
constexpr std::int64_t kTileSize = kEdge * kStep;  // elements of a tile
constexpr std::int64_t kChunk = 512;
constexpr std::int64_t kStepsOfChunk = kChunk / kStep;
constexpr std::int64_t kStrips = kTileRows / kEdge;
constexpr std::int64_t kMaxGroups = kTileColumns / kEdge + 1;  // columns may begin and end inside a group
static_assert(kPanelGroup == kEdge);

// Loads up to 32 elements, zeros after the first `left` ones.
TOKENPRUNE_INLINE __m512i load(const BFloat16* p, std::int64_t left) {
  const __mmask32 inside = left >= kStep ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1u);
  return _mm512_maskz_loadu_epi16(inside, p);
}

std::int64_t steps_of(std::int64_t D) { return (D + kStep - 1) / kStep; }

// A panel stores a tile for each group of rows and step along D. In a tile, each pair of neighbouring elements of the
// 16 rows is stored side by side.
std::int64_t offset_in_panel(const Panel<BFloat16>& panel, std::int64_t group, std::int64_t step) {
  return (group * steps_of(panel.D()) + step) * kTileSize;
}

// Transposes a matrix of 16 registers of 16 pairs.
TOKENPRUNE_INLINE void transpose(__m512i* rows) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 4
  for (int width = 1; width < kEdge; width *= 2) {
    // Two rows at a distance of `width` exchange blocks of `width` lanes. Indices from 16 on name lanes of the second.
    const __mmask16 odd = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(width));
    const __m512i first = _mm512_mask_add_epi32(lane, odd, lane, _mm512_set1_epi32(kEdge - width));
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(width));
#pragma GCC unroll 16
    for (int i = 0; i < kEdge; ++i) {
      if (i & width) continue;
      const __m512i a = rows[i], b = rows[i + width];
      rows[i] = _mm512_permutex2var_epi32(a, first, b);
      rows[i + width] = _mm512_permutex2var_epi32(a, second, b);
    }
  }
}

TOKENPRUNE_TARGET void pack(const BFloat16* const* rows, std::int64_t count, Panel<BFloat16>& panel,
                            std::int64_t first) {
  const std::int64_t group = first / kEdge, lane = first % kEdge;
  const auto lanes = static_cast<__mmask16>(((1u << count) - 1u) << lane);
  for (std::int64_t step = 0; step < steps_of(panel.D()); ++step) {
    __m512i pairs[kEdge] = {};
    for (std::int64_t i = 0; i < count; ++i) pairs[lane + i] = load(rows[i] + step * kStep, panel.D() - step * kStep);
    transpose(pairs);
    BFloat16* tile = panel.data() + offset_in_panel(panel, group, step);
    for (int pair = 0; pair < kEdge; ++pair) _mm512_mask_storeu_epi32(tile + pair * kStep, lanes, pairs[pair]);
  }
}

struct alignas(kCacheLine) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes_of_row[kEdge] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[kEdge] = {kEdge, kEdge, kEdge, kEdge, kEdge, kEdge, kEdge, kEdge};
};
constexpr TileConfiguration kConfiguration;

// The scratch memory of of_tile.
struct Scratch {
  BFloat16 rows[kStrips][kStepsOfChunk][kTileSize];  // a chunk of up to 32 rows, as tiles
  float products[kStrips][2][kEdge][kEdge];          // of a chunk of two strips and two groups
  float sums[kTileRows][kMaxGroups * kEdge];         // over the chunks so far
};
static_assert(sizeof(Scratch) <= kTileScratch * sizeof(float));

// Multiplies R strips of 16 rows with C groups of the panel, over `steps` tiles from those at `a` and `b` on.
template <int R, int C>
TOKENPRUNE_TARGET void multiply(const BFloat16* const* a, const BFloat16* const* b, std::int64_t steps,
                                float (*products)[2][kEdge][kEdge]) {
  constexpr int kRowBytes = 64;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, a[0] + step * kTileSize, kRowBytes);
    _tile_loadd(6, b[0] + step * kTileSize, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (C > 1) {
      _tile_loadd(7, b[1] + step * kTileSize, kRowBytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (R > 1) {
      _tile_loadd(5, a[1] + step * kTileSize, kRowBytes);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (R > 1 && C > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, products[0][0], kRowBytes);
  if constexpr (C > 1) _tile_stored(1, products[0][1], kRowBytes);
  if constexpr (R > 1) _tile_stored(2, products[1][0], kRowBytes);
  if constexpr (R > 1 && C > 1) _tile_stored(3, products[1][1], kRowBytes);
}

TOKENPRUNE_TARGET void of_tile(const BFloat16* const* a, std::int64_t count_a, const Panel<BFloat16>& panel,
                               std::int64_t first, std::int64_t count_b, float* memory, float* out,
                               std::int64_t stride_out) {
  auto& scratch = *reinterpret_cast<Scratch*>(memory);
  const std::int64_t strips = (count_a + kEdge - 1) / kEdge;
  const std::int64_t first_group = first / kEdge, groups = (first + count_b - 1) / kEdge - first_group + 1;
  _tile_loadconfig(&kConfiguration);
  for (std::int64_t begin = 0; begin < panel.D(); begin += kChunk) {
    const std::int64_t steps = steps_of(std::min(kChunk, panel.D() - begin));
    for (std::int64_t i = 0; i < count_a; ++i)
      for (std::int64_t step = 0; step < steps; ++step) {
        const std::int64_t d = begin + step * kStep;
        _mm512_store_si512(&scratch.rows[i / kEdge][step][i % kEdge * kStep], load(a[i] + d, panel.D() - d));
      }
    // The tile instructions read these stores. GCC does not know that and would drop them.
    asm volatile("" ::: "memory");
    const BFloat16* tiles_a[] = {scratch.rows[0][0], scratch.rows[1][0]};
    for (std::int64_t group = 0; group < groups; group += 2) {
      const bool two = group + 1 < groups;
      const std::int64_t step = begin / kStep;
      const BFloat16* tiles_b[] = {panel.data() + offset_in_panel(panel, first_group + group, step),
                                   panel.data() + offset_in_panel(panel, first_group + group + two, step)};
      const auto of_size =
          strips > 1 ? (two ? multiply<2, 2> : multiply<2, 1>) : (two ? multiply<1, 2> : multiply<1, 1>);
      of_size(tiles_a, tiles_b, steps, scratch.products);
      for (std::int64_t i = 0; i < count_a; ++i)
        for (int c = 0; c <= two; ++c) {
          float* sum = &scratch.sums[i][(group + c) * kEdge];
          const __m512 chunk = _mm512_load_ps(scratch.products[i / kEdge][c][i % kEdge]);
          _mm512_store_ps(sum, begin == 0 ? chunk : _mm512_add_ps(_mm512_load_ps(sum), chunk));
        }
    }
  }
  _tile_release();
  for (std::int64_t i = 0; i < count_a; ++i)
    std::copy_n(&scratch.sums[i][first % kEdge], count_b, out + i * stride_out);
}

}  // namespace

template <class T>
Kernels<T> kernels();

template <>
Kernels<BFloat16> kernels() {
  Kernels<BFloat16> kernels = avx512_bf16::kernels<BFloat16>();
  kernels.of_tile = of_tile;
  kernels.pack = pack;
  kernels.tile_rows = kTileRows;
  kernels.same_summation_order = false;
  return kernels;
}

}  // namespace amx
}  // namespace tokenprune::cpu

#endif
