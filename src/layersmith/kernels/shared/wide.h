// One token times rows of weights: the inner loops, a register of numbers at a time, by the processor's own instructions
// where it has them (the file is compiled for the machine it runs on) and in plain C++ everywhere else. No part of torch
// is needed here, so that tests can build the plain loops on any machine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

namespace layersmith {

// One register, no more: of vectors that take two, compilers make code that runs at a fifth of the speed.
#if defined(__AVX512F__)
constexpr int64_t WIDE = 16;
#else
constexpr int64_t WIDE = 8;
#endif
typedef float Wide __attribute__((vector_size(WIDE * sizeof(float))));

// Weights come from memory, one row behind the other: how far ahead of their use they are asked for.
constexpr int64_t AHEAD = 1024;

inline void ask_for(const void* address) {
  __builtin_prefetch(static_cast<const char*>(address) + AHEAD);
}

inline Wide wide(const float* from) {
  Wide v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Wide wide(const float* from, int64_t count) {
  Wide v = {};
  std::memcpy(&v, from, count * sizeof(float));
  return v;
}

inline Wide widely(float value) {
  return value - Wide{};  // nothing taken off is no operation; nothing added is one, which turns -0 into 0
}

inline float sum_wide(Wide v) {
#if defined(__AVX512F__)
  __m512 lanes;
  std::memcpy(&lanes, &v, sizeof v);
  return _mm512_reduce_add_ps(lanes);
#else
  float halves[WIDE];
  std::memcpy(halves, &v, sizeof v);
  for (int64_t width = WIDE / 2; width; width /= 2) {
    for (int64_t l = 0; l < width; ++l) halves[l] += halves[l + width];
  }
  return halves[0];
#endif
}

// The product of a row of weights and x.
inline float dot_wide(const float* row, const float* x, int64_t size) {
  Wide sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * WIDE <= size; i += 4 * WIDE) {
    for (int64_t l = 0; l < 4; ++l) {
      ask_for(row + i + l * WIDE);
      sums[l] += wide(row + i + l * WIDE) * wide(x + i + l * WIDE);
    }
  }
  for (; i + WIDE <= size; i += WIDE) sums[0] += wide(row + i) * wide(x + i);
  if (i < size) sums[1] += wide(row + i, size - i) * wide(x + i, size - i);
  return sum_wide((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// e^x for x <= 0, to a few units in the last place: 2^n e^r with |r| <= ln 2 / 2, and Taylor's series for e^r.
inline Wide exp_of_negative(Wide x) {
  typedef int32_t Whole __attribute__((vector_size(WIDE * sizeof(int32_t))));
  const Wide bounded = x < -87.0f ? widely(-87.0f) : x;
  const Whole n = __builtin_convertvector(bounded * 1.44269504f - 0.5f, Whole);  // towards zero: to the nearest
  const Wide whole = __builtin_convertvector(n, Wide);
  const Wide r = (bounded - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Wide series = widely(1.0f / 5040.0f);
  for (const float factor : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) {
    series = series * r + factor;
  }
  const Whole power = (n + 127) << 23;
  Wide two_to_n;
  std::memcpy(&two_to_n, &power, sizeof power);
  return x < -87.0f ? Wide{} : series * two_to_n;
}

// The product of int8 codes and int8 q: a whole number.
inline int32_t dot_int8(const int8_t* codes, const int8_t* q, int64_t size) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
  // The instruction multiplies unsigned by signed: q + 128 is used for q, and 128 times the sum of the codes taken off.
  const __m512i shift = _mm512_set1_epi8(-128);
  __m512i shifted[2] = {}, taken[2] = {};
  const auto add = [&](int64_t lane, __m512i x, __m512i c) {
    shifted[lane] = _mm512_dpbusd_epi32(shifted[lane], _mm512_xor_si512(x, shift), c);
    taken[lane] = _mm512_dpbusd_epi32(taken[lane], shift, c);
  };
  int64_t i = 0;
  for (; i + 128 <= size; i += 128) {
    ask_for(codes + i);
    ask_for(codes + i + 64);
    add(0, _mm512_loadu_si512(q + i), _mm512_loadu_si512(codes + i));
    add(1, _mm512_loadu_si512(q + i + 64), _mm512_loadu_si512(codes + i + 64));
  }
  for (; i < size; i += 64) {
    const __mmask64 there = size - i < 64 ? ~0ull >> (64 - (size - i)) : ~0ull;
    add(0, _mm512_maskz_loadu_epi8(there, q + i), _mm512_maskz_loadu_epi8(there, codes + i));
  }
  const __m512i wanted = _mm512_add_epi32(shifted[0], shifted[1]), surplus = _mm512_add_epi32(taken[0], taken[1]);
  return _mm512_reduce_add_epi32(_mm512_sub_epi32(wanted, surplus));
#else
  int32_t total = 0;
  int64_t i = 0;
#if defined(__AVX2__)
  // The instruction multiplies unsigned by signed and adds pairs in 16 bits, which 2 * 127 * 127 fits: |codes| is used for
  // codes, and q takes their signs. (128 * 127 fits too; q is never -128, which has no opposite.)
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sums[2] = {};
  for (; i + 64 <= size; i += 64) {
    ask_for(codes + i);
    for (int64_t l = 0; l < 2; ++l) {
      const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i + 32 * l));
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + i + 32 * l));
      const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(c), _mm256_sign_epi8(x, c));
      sums[l] = _mm256_add_epi32(sums[l], _mm256_madd_epi16(pairs, ones));
    }
  }
  int32_t lanes[8];
  const __m256i both = _mm256_add_epi32(sums[0], sums[1]);
  std::memcpy(lanes, &both, sizeof lanes);
  for (int64_t l = 0; l < 8; ++l) total += lanes[l];
#endif
  for (; i < size; ++i) total += static_cast<int32_t>(codes[i]) * q[i];
  return total;
#endif
}

// WIDE unsigned bytes as floats.
inline Wide from_bytes(const uint8_t* from) {
  Wide v;
#if defined(__AVX512F__)
  const __m512 floats = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  std::memcpy(&v, &floats, sizeof v);
#elif defined(__AVX2__)
  const __m128i eight = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  const __m256 floats = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
  std::memcpy(&v, &floats, sizeof v);
#else
  for (int64_t l = 0; l < WIDE; ++l) v[l] = static_cast<float>(from[l]);
#endif
  return v;
}

// The lower and the upper four bits of WIDE bytes, as floats.
inline void from_halves(const uint8_t* from, Wide* low, Wide* high) {
#if defined(__AVX512F__)
  const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  const __m512 a = _mm512_cvtepi32_ps(_mm512_and_si512(bytes, _mm512_set1_epi32(15)));
  const __m512 b = _mm512_cvtepi32_ps(_mm512_srli_epi32(bytes, 4));
  std::memcpy(low, &a, sizeof a);
  std::memcpy(high, &b, sizeof b);
#elif defined(__AVX2__)
  const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  const __m256 a = _mm256_cvtepi32_ps(_mm256_and_si256(bytes, _mm256_set1_epi32(15)));
  const __m256 b = _mm256_cvtepi32_ps(_mm256_srli_epi32(bytes, 4));
  std::memcpy(low, &a, sizeof a);
  std::memcpy(high, &b, sizeof b);
#else
  uint8_t lower[WIDE], upper[WIDE];
  for (int64_t l = 0; l < WIDE; ++l) lower[l] = from[l] & 15, upper[l] = from[l] >> 4;
  *low = from_bytes(lower), *high = from_bytes(upper);
#endif
}

// A float16, given by its bits.
inline float from_half(uint16_t bits) {
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16, rest = bits & 0x7fff;
  uint32_t whole = (rest << 13) + (112u << 23);
  if (rest >= 0x7c00) whole = (rest << 13) | 0x7f800000u;  // infinity and NaN
  float value;
  std::memcpy(&value, &whole, sizeof value);
  if (rest < 0x400) value = static_cast<float>(rest) * 5.9604644775390625e-8f;  // below the smallest normal number
  uint32_t found;
  std::memcpy(&found, &value, sizeof found);
  found |= sign;
  std::memcpy(&value, &found, sizeof value);
  return value;
#endif
}

// Eight bits a code: sum over the groups of scale (code - zero) x. x as it is; a group is a multiple of 16 codes.
inline float dot_bytes(
    const uint8_t* codes, const uint16_t* scale, const uint16_t* zero, const float* x, int64_t size, int64_t group) {
  Wide total = {};
  for (int64_t start = 0, g = 0; start < size; start += group, ++g) {
    const Wide z = widely(from_half(zero[g]));
    Wide even = {}, odd = {};  // two sums, so that additions do not wait for one another
    ask_for(codes + start);
    int64_t i = start;
    for (; i + 2 * WIDE <= start + group; i += 2 * WIDE) {
      even += (from_bytes(codes + i) - z) * wide(x + i);
      odd += (from_bytes(codes + i + WIDE) - z) * wide(x + i + WIDE);
    }
    if (i < start + group) even += (from_bytes(codes + i) - z) * wide(x + i);
    total += (even + odd) * widely(from_half(scale[g]));
  }
  return sum_wide(total);
}

// Four bits a code, the first of two in the lower half of its byte. x as `halves_apart` leaves it; a group is a multiple
// of 32 codes.
inline float dot_halves(
    const uint8_t* codes, const uint16_t* scale, const uint16_t* zero, const float* x, int64_t size, int64_t group) {
  Wide total = {};
  for (int64_t start = 0, g = 0; start < size; start += group, ++g) {
    const Wide z = widely(from_half(zero[g]));
    Wide even = {}, odd = {};
    ask_for(codes);
    for (int64_t i = start; i < start + group; i += 2 * WIDE, codes += WIDE) {
      Wide low, high;
      from_halves(codes, &low, &high);
      even += (low - z) * wide(x + i);
      odd += (high - z) * wide(x + i + WIDE);
    }
    total += (even + odd) * widely(from_half(scale[g]));
  }
  return sum_wide(total);
}

// Of every 2 WIDE numbers first those at even places, then those at odd ones.
inline void halves_apart(const float* x, float* apart, int64_t size) {
  for (int64_t start = 0; start < size; start += 2 * WIDE) {
    for (int64_t l = 0; l < WIDE; ++l) {
      apart[start + l] = x[start + 2 * l];
      apart[start + WIDE + l] = x[start + 2 * l + 1];
    }
  }
}

}  // namespace layersmith
