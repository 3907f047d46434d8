// One token in int8 times rows of 4-bit weights, group by group in whole numbers. x is rounded once for all rows, with a
// step for every group; then a group takes one multiplication of floats, and the zero points one for all of a row.
#pragma once

#include <cmath>

#include "wide.h"

namespace layersmith {

// x as whole numbers: of every 32 first those at even places, then those at odd ones, as the halves of 16 bytes are.
// step[g] is what 1 of them is worth in group g, sum[g] what they add up to.
inline void round_groups(const float* x, int64_t size, int64_t group, int8_t* q, float* step, float* sum) {
  for (int64_t start = 0, g = 0; start < size; start += group, ++g) {
    int32_t bits = 0;  // without the sign they are ordered like the numbers, infinity and NaN last
    for (int64_t i = start; i < start + group; ++i) {
      int32_t own;
      std::memcpy(&own, x + i, sizeof own);
      bits = std::max(bits, own & 0x7fffffff);
    }
    float most;
    std::memcpy(&most, &bits, sizeof most);
    const bool finite = bits < 0x7f800000;
    most = std::max(most, 1e-30f);  // a group of zeros is rounded as if it were this large
    const float factor = finite ? 127.0f / most : 0.0f;
    int32_t all = 0;
    for (int64_t i = start; i < start + group; i += 32) {
      int32_t whole[32];
      for (int64_t l = 0; l < 32; ++l) whole[l] = static_cast<int32_t>(std::nearbyint(finite ? x[i + l] * factor : 0.0f));
      for (int64_t l = 0; l < 32; ++l) all += whole[l];
      for (int64_t l = 0; l < 16; ++l) {
        q[i + l] = static_cast<int8_t>(whole[2 * l]), q[i + 16 + l] = static_cast<int8_t>(whole[2 * l + 1]);
      }
    }
    step[g] = finite ? most / 127.0f : std::nanf("");
    sum[g] = step[g] * static_cast<float>(all);
  }
}

#if defined(__AVX2__) && defined(__F16C__)
// code . q of one group, in eight parts. Codes are unsigned and at most 15, so products of neighbours add up in 16 bits.
template <int64_t BLOCKS>
inline __m256 parts_of(const uint8_t* codes, const int8_t* q) {
  const __m256i ones = _mm256_set1_epi16(1), lower = _mm256_set1_epi8(15);
  __m256i whole = {};
#pragma GCC unroll 4
  for (int64_t i = 0; i < BLOCKS; ++i) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * i));
    const __m256i halves = _mm256_inserti128_si256(_mm256_castsi128_si256(bytes), _mm_srli_epi16(bytes, 4), 1);
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 32 * i));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_and_si256(halves, lower), x);
    whole = _mm256_add_epi32(whole, _mm256_madd_epi16(pairs, ones));
  }
  return _mm256_cvtepi32_ps(whole);
}

template <int64_t BLOCKS>
inline float dot_in_groups(
    const uint8_t* codes, const uint16_t* scale, const uint16_t* zero, const int8_t* q, const float* step,
    const float* sum, int64_t groups) {
  constexpr int64_t ROW = 16 * BLOCKS, GROUP = 32 * BLOCKS;
  __m256 even = {}, odd = {}, taken = {};  // two sums, so that additions do not wait for one another
  float factors[8], more = 0.0f;
  int64_t g = 0;
  for (; g + 8 <= groups; g += 8, codes += 8 * ROW, q += 8 * GROUP) {
    const __m256 s = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scale + g)));
    const __m256 z = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zero + g)));
    taken += s * z * _mm256_loadu_ps(sum + g);
    _mm256_storeu_ps(factors, s * _mm256_loadu_ps(step + g));
#pragma GCC unroll 4
    for (int64_t l = 0; l < 8; l += 2) {
      ask_for(codes + l * ROW);
      even += parts_of<BLOCKS>(codes + l * ROW, q + l * GROUP) * _mm256_set1_ps(factors[l]);
      odd += parts_of<BLOCKS>(codes + (l + 1) * ROW, q + (l + 1) * GROUP) * _mm256_set1_ps(factors[l + 1]);
    }
  }
  for (; g < groups; ++g, codes += ROW, q += GROUP) {
    const float s = from_half(scale[g]);
    even += parts_of<BLOCKS>(codes, q) * _mm256_set1_ps(s * step[g]);
    more += s * from_half(zero[g]) * sum[g];
  }
  const __m256 wanted = (even + odd) - taken;
  float lanes[8];
  std::memcpy(lanes, &wanted, sizeof lanes);
  return (((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))) - more;
}
#endif

// sum over the groups of scale step (code . q) - scale zero sum; a group is a multiple of 32 codes.
inline float dot_halves_int8(
    const uint8_t* codes, const uint16_t* scale, const uint16_t* zero, const int8_t* q, const float* step,
    const float* sum, int64_t size, int64_t group) {
#if defined(__AVX2__) && defined(__F16C__)
  if (group == 32) return dot_in_groups<1>(codes, scale, zero, q, step, sum, size / group);
  if (group == 64) return dot_in_groups<2>(codes, scale, zero, q, step, sum, size / group);
  if (group == 128) return dot_in_groups<4>(codes, scale, zero, q, step, sum, size / group);
#endif
  float total = 0.0f;
  for (int64_t start = 0, g = 0; start < size; start += group, ++g) {
    int32_t whole = 0;
    for (int64_t i = start; i < start + group; ++i) {
      const int32_t code = codes[i / 2] >> (4 * (i % 2)) & 15;
      whole += code * q[i / 32 * 32 + i % 2 * 16 + i % 32 / 2];
    }
    total += from_half(scale[g]) * (step[g] * static_cast<float>(whole) - from_half(zero[g]) * sum[g]);
  }
  return total;
}

}  // namespace layersmith
