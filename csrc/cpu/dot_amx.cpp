// Dot products with AMX: tiles of 16 rows times 16 rows, 32 elements deep, with float32 accumulation.
//
// The processor multiplies bfloat16. Other elements are split into a leading bfloat16 and what that leaves, rounded to
// bfloat16 again: exact for float16; for float32 something may be left over, and rows for which that could be felt are
// not multiplied in tiles (suits_tiles). The products of parts are summed apart, so that a dot product is symmetric.
//
// An instruction adds the products of 16 even and of 16 odd elements one after the other and the two sums to the total;
// totals are added chunk by chunk. Subnormals count as zeros, which a similarity does not notice: norms are clamped at
// 1e-12, far above.
#if defined(__x86_64__)

#include <immintrin.h>

#include <type_traits>

#include "similarity.h"

#define TOKENPRUNE_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,amx-tile,amx-bf16")))
#define TOKENPRUNE_INLINE TOKENPRUNE_TARGET __attribute__((always_inline)) static inline

namespace tokenprune::cpu {

namespace avx512 {
template <class T>
DotProducts<T> products();
}
namespace avx512_bf16 {
template <class T>
DotProducts<T> products();
}

namespace amx {
namespace {

constexpr int kEdge = 16;                          // rows of a tile
constexpr std::int64_t kStep = 32;                 // elements of its rows
constexpr std::int64_t kTileSize = kEdge * kStep;  // what it holds
constexpr std::int64_t kChunk = 512;
constexpr std::int64_t kStepsOfChunk = kChunk / kStep;
constexpr std::int64_t kStrips = kTileRows / kEdge;
constexpr std::int64_t kMostGroups = kTileColumns / kEdge + 1;  // columns may begin and end inside a group
static_assert(kPanelGroup == kEdge);

// The bfloat16 parts of an element, and the products of a part of a and one of b.
template <class T>
constexpr int kParts = std::is_same_v<T, BFloat16> ? 1 : 2;
template <class T>
constexpr int kProducts = kParts<T> * kParts<T>;

// 32 elements, in the low and the high half of two registers.
struct Floats {
  __m512 low, high;
};

TOKENPRUNE_INLINE __mmask16 low_half(__mmask32 mask) { return static_cast<__mmask16>(mask); }
TOKENPRUNE_INLINE __mmask16 high_half(__mmask32 mask) { return static_cast<__mmask16>(mask >> 16); }

TOKENPRUNE_INLINE Floats load(const float* p, __mmask32 mask) {
  return {_mm512_maskz_loadu_ps(low_half(mask), p), _mm512_maskz_loadu_ps(high_half(mask), p + 16)};
}
TOKENPRUNE_INLINE Floats load(const Half* p, __mmask32 mask) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(low_half(mask), p)),
          _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(high_half(mask), p + 16))};
}
TOKENPRUNE_INLINE __m512i rounded(Floats value) { return (__m512i)_mm512_cvtne2ps_pbh(value.high, value.low); }
TOKENPRUNE_INLINE __m512 widened(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
TOKENPRUNE_INLINE Floats without(Floats value, __m512i part) {
  return {_mm512_sub_ps(value.low, widened(_mm512_castsi512_si256(part))),
          _mm512_sub_ps(value.high, widened(_mm512_extracti64x4_epi64(part, 1)))};
}

// The parts of 32 elements, those outside the mask being 0.
TOKENPRUNE_INLINE void split(const BFloat16* p, __mmask32 mask, __m512i* parts) {
  parts[0] = _mm512_maskz_loadu_epi16(mask, p);
}
template <class T>
TOKENPRUNE_INLINE void split(const T* p, __mmask32 mask, __m512i* parts) {
  const Floats value = load(p, mask);
  parts[0] = rounded(value);
  parts[1] = rounded(without(value, parts[0]));
}

TOKENPRUNE_INLINE __mmask32 inside(std::int64_t begin, std::int64_t depth) {
  const std::int64_t left = depth - begin;
  return left >= kStep ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1u);
}

std::int64_t steps_of(std::int64_t depth) { return (depth + kStep - 1) / kStep; }

// A panel holds a tile for each group of rows, step of their depth and part; in it, the pairs of neighbouring elements
// of the 16 rows lie side by side.
template <class T>
std::int64_t offset_in_panel(const Panel& panel, std::int64_t group, std::int64_t step, int part) {
  return ((group * steps_of(panel.depth()) + step) * kParts<T> + part) * kTileSize;
}

// Column p of the matrix becomes row p, for 16 registers of 16 elements.
TOKENPRUNE_INLINE void transpose(__m512i* rows) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 4
  for (int width = 1; width < kEdge; width *= 2) {
    // Of two rows `width` apart, blocks of `width` change places. Lanes of the second one count from 16.
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

template <class T>
TOKENPRUNE_TARGET void pack(const T* const* rows, std::int64_t count, Panel& panel, std::int64_t first) {
  const std::int64_t group = first / kEdge, lane = first % kEdge;
  const auto lanes = static_cast<__mmask16>(((1u << count) - 1u) << lane);
  for (std::int64_t step = 0; step < steps_of(panel.depth()); ++step) {
    __m512i parts[kParts<T>][kEdge] = {};
    for (std::int64_t i = 0; i < count; ++i) {
      __m512i of_row[kParts<T>];
      split(rows[i] + step * kStep, inside(step * kStep, panel.depth()), of_row);
      for (int part = 0; part < kParts<T>; ++part) parts[part][lane + i] = of_row[part];
    }
    for (int part = 0; part < kParts<T>; ++part) {
      transpose(parts[part]);
      std::uint16_t* tile = panel.data<std::uint16_t>() + offset_in_panel<T>(panel, group, step, part);
      for (int pair = 0; pair < kEdge; ++pair) _mm512_mask_storeu_epi32(tile + pair * kStep, lanes, parts[part][pair]);
    }
  }
}

struct alignas(kCacheLine) TileConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes_of_row[kEdge] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[kEdge] = {kEdge, kEdge, kEdge, kEdge, kEdge, kEdge, kEdge, kEdge};
};
constexpr TileConfiguration kConfiguration;

// The scratch memory of a tile of similarities.
template <class T>
struct Scratch {
  // What is multiplied at a time, from up to 32 rows.
  std::uint16_t tiles[kParts<T>][kStrips][kStepsOfChunk][kTileSize];
  // Products of the chunk: of two strips and two groups.
  float products[kStrips][2][kEdge][kEdge];
  // Of the chunks so far, for each product of parts.
  float sums[kProducts<T>][kTileRows][kMostGroups * kEdge];
};

// Products of R strips of 16 rows with C groups of the panel, over some steps. A pointer is to the tile of the first
// step.
template <int R, int C>
TOKENPRUNE_TARGET void multiply(const std::uint16_t* const* a, const std::uint16_t* const* b, std::int64_t stride_b,
                                std::int64_t steps, float (*products)[2][kEdge][kEdge]) {
  constexpr int kRowBytes = 64;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t step = 0; step < steps; ++step) {
    _tile_loadd(4, a[0] + step * kTileSize, kRowBytes);
    _tile_loadd(6, b[0] + step * stride_b, kRowBytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (C > 1) {
      _tile_loadd(7, b[1] + step * stride_b, kRowBytes);
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

template <class T>
TOKENPRUNE_TARGET void of_tile(const T* const* a, std::int64_t count_a, const Panel& panel, std::int64_t first,
                               std::int64_t count_b, float* memory, float* out, std::int64_t stride_out) {
  static_assert(sizeof(Scratch<T>) <= kTileScratch * sizeof(float));
  auto& scratch = *reinterpret_cast<Scratch<T>*>(memory);
  const std::int64_t strips = (count_a + kEdge - 1) / kEdge;
  const std::int64_t first_group = first / kEdge, groups = (first + count_b - 1) / kEdge - first_group + 1;
  const std::int64_t stride_b = kParts<T> * kTileSize;
  _tile_loadconfig(&kConfiguration);
  for (std::int64_t begin = 0; begin < panel.depth(); begin += kChunk) {
    const std::int64_t steps = steps_of(std::min(kChunk, panel.depth() - begin));
    for (std::int64_t i = 0; i < count_a; ++i)
      for (std::int64_t step = 0; step < steps; ++step) {
        __m512i parts[kParts<T>];
        split(a[i] + begin + step * kStep, inside(begin + step * kStep, panel.depth()), parts);
        for (int part = 0; part < kParts<T>; ++part)
          _mm512_store_si512(&scratch.tiles[part][i / kEdge][step][i % kEdge * kStep], parts[part]);
      }
    // Not implied by the tile instructions: GCC would drop the stores that they read.
    asm volatile("" ::: "memory");
    for (int product = 0; product < kProducts<T>; ++product) {
      const int part_a = product / kParts<T>, part_b = product % kParts<T>;
      const std::uint16_t* tiles_a[] = {scratch.tiles[part_a][0][0], scratch.tiles[part_a][1][0]};
      for (std::int64_t group = 0; group < groups; group += 2) {
        const bool two = group + 1 < groups;
        const std::int64_t step = begin / kStep;
        const std::uint16_t* panel_tiles = panel.data<std::uint16_t>();
        const std::uint16_t* tiles_b[] = {
            panel_tiles + offset_in_panel<T>(panel, first_group + group, step, part_b),
            panel_tiles + offset_in_panel<T>(panel, first_group + group + two, step, part_b)};
        const auto of_size =
            strips > 1 ? (two ? multiply<2, 2> : multiply<2, 1>) : (two ? multiply<1, 2> : multiply<1, 1>);
        of_size(tiles_a, tiles_b, stride_b, steps, scratch.products);
        for (std::int64_t i = 0; i < count_a; ++i)
          for (int c = 0; c <= two; ++c) {
            float* sum = &scratch.sums[product][i][(group + c) * kEdge];
            const __m512 chunk = _mm512_load_ps(scratch.products[i / kEdge][c][i % kEdge]);
            _mm512_store_ps(sum, begin == 0 ? chunk : _mm512_add_ps(_mm512_load_ps(sum), chunk));
          }
      }
    }
  }
  _tile_release();
  for (std::int64_t i = 0; i < count_a; ++i)
    for (std::int64_t j = 0; j < count_b; ++j) {
      const auto sum = [&](int product) { return scratch.sums[product][i][first % kEdge + j]; };
      float total = sum(0);
      if constexpr (kParts<T> == 2) total = (total + sum(3)) + (sum(1) + sum(2));
      out[i * stride_out + j] = total;
    }
}

// For rows a and b of length 1, a dot product in tiles lacks at most |left_a| + |left_b|, left being what both parts of
// a row leave over. The limit holds that below 8e-6, and keeps 2e-6 for rounding. Rows of a hundred unlike elements are
// within it, most rows of fewer too; rows of equal elements need not be. Where a sum of squares is next to the largest
// float, the products of leading parts may overflow.
TOKENPRUNE_TARGET bool suits_tiles(const float* row, std::int64_t depth, float sum_of_squares) {
  constexpr float kLimit = 4e-6f, kLargest = 0x1p120f;
  if (sum_of_squares > kLargest) return false;
  __m512 squares = _mm512_setzero_ps();
  for (std::int64_t begin = 0; begin < depth; begin += kStep) {
    const Floats value = load(row + begin, inside(begin, depth));
    const Floats rest = without(value, rounded(value));
    const Floats left = without(rest, rounded(rest));
    squares = _mm512_fmadd_ps(left.low, left.low, _mm512_fmadd_ps(left.high, left.high, squares));
  }
  return std::sqrt(_mm512_reduce_add_ps(squares)) * reciprocal_norm(sum_of_squares) <= kLimit;
}

template <class T>
DotProducts<T> with_tiles(DotProducts<T> products) {
  products.of_tile = of_tile<T>;
  products.pack = pack<T>;
  products.tile_rows = kTileRows;
  products.panel_element_bytes = kParts<T> * sizeof(std::uint16_t);
  products.one_order = false;
  return products;
}

}  // namespace

template <class T>
DotProducts<T> products();

template <>
DotProducts<BFloat16> products() {
  return with_tiles(avx512_bf16::products<BFloat16>());
}

template <>
DotProducts<Half> products() {
  return with_tiles(avx512::products<Half>());
}

template <>
DotProducts<float> products() {
  DotProducts<float> products = with_tiles(avx512::products<float>());
  products.suits_tiles = suits_tiles;
  return products;
}

}  // namespace amx
}  // namespace tokenprune::cpu

#endif
