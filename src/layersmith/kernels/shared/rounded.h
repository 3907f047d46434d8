// A token's numbers as whole ones with a single step, and what products with them become again. No part of torch is
// needed here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace layersmith {

constexpr float TOP = 127.0f;
constexpr float SMALLEST = 1e-30f;

// The largest |x|, and NaN if there is one: bits without the sign are ordered like the numbers, NaN last.
inline float largest(const float* x, int64_t n) {
  int32_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  float value;
  std::memcpy(&value, &most, sizeof value);
  return value;
}

template <typename Code>
void round_row(const float* x, Code* q, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) q[i] = static_cast<Code>(static_cast<int32_t>(std::nearbyint(x[i] * factor)));
}

// The step of a row x, whose codes are put into q.
template <typename Code>
float rounded(const float* x, Code* q, int64_t n) {
  const float most = std::max(largest(x, n), SMALLEST);
  round_row(x, q, n, TOP / most);
  return most / TOP;
}

// What is rescaled, in one place, so that a token comes out the same alone and among others.
inline float rescaled(int32_t whole, float scale, float step, float bias) {
  return static_cast<float>(whole) * scale * step + bias;
}

}  // namespace layersmith
