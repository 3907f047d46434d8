// Many tokens times rows of int8 weights, in whole numbers, on processors with AVX2 and no instruction for such products,
// where torch's own is a plain loop. Both are widened to 16 bits, of which an instruction multiplies sixteen pairs and adds
// neighbours: half the multiplications of the same product in float32. Sixteen rows of weights at a time are laid out so that
// each of their sums has a lane of its own. No part of torch is needed here, so that tests can build it by itself.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>

namespace layersmith {

// Tokens and rows of weights whose sums are in registers together: twelve registers of sixteen.
constexpr int64_t TILE = 6, PANEL = 16;
// Widths are filled up with zeros to a multiple of this.
constexpr int64_t DEEP = 16;

inline int64_t filled_up(int64_t width) {
  return (width + DEEP - 1) / DEEP * DEEP;
}

// Sixteen bytes of row l of weights, or zeros where there are no more.
inline __m128i piece(const int8_t* codes, int64_t in, int64_t rows, int64_t l, int64_t i) {
  if (l < rows && i + DEEP <= in) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + l * in + i));
  __m128i bytes = {};
  if (l < rows) std::memcpy(&bytes, codes + l * in + i, in - i);
  return bytes;
}

// Up to sixteen rows of weights -> for every two inputs the pairs of all rows, one after another: panel[i / 2][row][i % 2].
inline void lay_out(const int8_t* codes, int64_t in, int64_t rows, int16_t* panel) {
  for (int64_t i = 0; i < in; i += DEEP) {
    for (int64_t half = 0; half < PANEL; half += 8) {
      // Eight rows of eight pairs are transposed, a pair being 16 bits, in three steps that double what lies together.
      __m128i a[8], b[8];
      for (int64_t l = 0; l < 8; ++l) a[l] = piece(codes, in, rows, half + l, i);
      for (int64_t l = 0; l < 4; ++l) {
        b[2 * l] = _mm_unpacklo_epi16(a[2 * l], a[2 * l + 1]);
        b[2 * l + 1] = _mm_unpackhi_epi16(a[2 * l], a[2 * l + 1]);
      }
      for (int64_t four = 0; four < 8; four += 4) {
        for (int64_t l = 0; l < 2; ++l) {
          a[four + 2 * l] = _mm_unpacklo_epi32(b[four + l], b[four + 2 + l]);
          a[four + 2 * l + 1] = _mm_unpackhi_epi32(b[four + l], b[four + 2 + l]);
        }
      }
      for (int64_t l = 0; l < 4; ++l) {
        b[2 * l] = _mm_unpacklo_epi64(a[l], a[4 + l]);
        b[2 * l + 1] = _mm_unpackhi_epi64(a[l], a[4 + l]);
      }
      for (int64_t pair = 0; pair < 8; ++pair) {
        int16_t* to = panel + (i / 2 + pair) * 2 * PANEL + 2 * half;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_cvtepi8_epi16(b[pair]));
      }
    }
  }
}

// sums[token][row] of that many tokens, whose rows of q are `width` apart, and of a panel.
template <int TOKENS>
void sums_of(const int16_t* q, int64_t width, const int16_t* panel, int32_t (*sums)[PANEL]) {
  __m256i found[TOKENS][2] = {};
  for (int64_t i = 0; i < width; i += 2) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + i * PANEL));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + i * PANEL + PANEL));
#pragma GCC unroll 6
    for (int t = 0; t < TOKENS; ++t) {
      int32_t pair;
      std::memcpy(&pair, q + t * width + i, sizeof pair);
      const __m256i everywhere = _mm256_set1_epi32(pair);
      found[t][0] = _mm256_add_epi32(found[t][0], _mm256_madd_epi16(everywhere, low));
      found[t][1] = _mm256_add_epi32(found[t][1], _mm256_madd_epi16(everywhere, high));
    }
  }
#pragma GCC unroll 6
  for (int t = 0; t < TOKENS; ++t) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[t]), found[t][0]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums[t] + PANEL / 2), found[t][1]);
  }
}

// The same for one to six tokens.
inline void sums_of_few(int64_t tokens, const int16_t* q, int64_t width, const int16_t* panel, int32_t (*sums)[PANEL]) {
  switch (tokens) {
    case 1: return sums_of<1>(q, width, panel, sums);
    case 2: return sums_of<2>(q, width, panel, sums);
    case 3: return sums_of<3>(q, width, panel, sums);
    case 4: return sums_of<4>(q, width, panel, sums);
    case 5: return sums_of<5>(q, width, panel, sums);
    default: return sums_of<6>(q, width, panel, sums);
  }
}

}  // namespace layersmith
#endif
