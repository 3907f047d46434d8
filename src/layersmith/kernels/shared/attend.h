// Attention of one new token over a cache with room: see cached/__init__.py. Its key and value are written behind the
// others first.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>
#include <optional>
#include <vector>

#include "shared_out.h"
#include "wide.h"

namespace layersmith {

// The first `size` channels of a head turned by their angles, the others as they are.
inline void turned(const float* x, const float* angles, int64_t size, int64_t width, bool interleaved, float* to) {
  const float *cos = angles, *sin = angles + size;
  const int64_t half = size / 2;
  for (int64_t i = 0; interleaved && i < size; ++i) to[i] = x[i] * cos[i] + x[i ^ 1] * sin[i];
  for (int64_t i = 0; !interleaved && i < half; ++i) {
    to[i] = x[i] * cos[i] + x[i + half] * sin[i];
    to[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half];
  }
  std::memcpy(to + size, x + size, (width - size) * sizeof(float));
}

// Scores become weights that add up to 1 over `tokens` places; the memory goes on to a multiple of WIDE.
inline void softmax(float* scores, int64_t tokens) {
  float most = -std::numeric_limits<float>::infinity();
  for (int64_t t = 0; t < tokens; ++t) most = std::max(most, scores[t]);
  const int64_t end = (tokens + WIDE - 1) / WIDE * WIDE;
  for (int64_t t = tokens; t < end; ++t) scores[t] = -std::numeric_limits<float>::infinity();
  Wide all = {};
  for (int64_t t = 0; t < end; t += WIDE) {
    const Wide weights = exp_of_negative(wide(scores + t) - most);
    std::memcpy(scores + t, &weights, sizeof weights);
    all += weights;
  }
  const float share = 1.0f / sum_wide(all);
  for (int64_t t = 0; t < tokens; ++t) scores[t] *= share;
}

// y = sum over the tokens of their weight times their value, WIDE channels at a time.
inline void weigh(const float* weights, const float* values, int64_t tokens, int64_t width, float* y) {
  for (int64_t i = 0; i < width; i += WIDE) {
    const int64_t count = std::min(WIDE, width - i);
    Wide sums[4] = {};
    int64_t t = 0;
    for (; count == WIDE && t + 4 <= tokens; t += 4) {
      for (int64_t l = 0; l < 4; ++l) sums[l] += weights[t + l] * wide(values + (t + l) * width + i);
    }
    for (; t < tokens; ++t) sums[0] += weights[t] * wide(values + t * width + i, count);
    const Wide total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    std::memcpy(y + i, &total, count * sizeof(float));
  }
}

// y (heads width) of the token with this row of queries, keys and values, which `slots` others precede.
inline void attend(
    const float* qkv,
    const std::optional<at::Tensor>& table,
    int64_t position,
    const at::Tensor& keys,
    const at::Tensor& values,
    int64_t slots,
    int64_t heads,
    double scale,
    bool interleaved,
    float* y) {
  const int64_t kv_heads = keys.size(1), room = keys.size(2), width = keys.size(3), tokens = slots + 1;
  const int64_t size = table.has_value() ? table->size(2) : 0;
  TORCH_CHECK(heads % kv_heads == 0 && values.sizes() == keys.sizes(), "attend: wrong sizes");
  TORCH_CHECK(slots < room && (!size || (position < table->size(0) && size <= width)), "attend: no room");
  const float* angles = size ? table->const_data_ptr<float>() + position * 2 * size : nullptr;
  float *pk = keys.mutable_data_ptr<float>(), *pv = values.mutable_data_ptr<float>();
  std::vector<float> q(heads * width);
  for (int64_t h = 0; h < heads; ++h) turned(qkv + h * width, angles, size, width, interleaved, q.data() + h * width);
  for (int64_t h = 0; h < kv_heads; ++h) {
    float* place = pk + (h * room + slots) * width;
    turned(qkv + (heads + h) * width, angles, size, width, interleaved, place);
    std::memcpy(pv + (h * room + slots) * width, qkv + (heads + kv_heads + h) * width, width * sizeof(float));
  }
  each_row(heads, 2 * tokens * width * sizeof(float), [&](int64_t h) {
    const int64_t start = h / (heads / kv_heads) * room * width;
    static thread_local std::vector<float> scores;
    scores.resize(tokens + WIDE);
    for (int64_t t = 0; t < tokens; ++t) {
      scores[t] = static_cast<float>(scale) * dot_wide(q.data() + h * width, pk + start + t * width, width);
    }
    softmax(scores.data(), tokens);
    weigh(scores.data(), pv + start, tokens, width, y + h * width);
  });
}

}  // namespace layersmith
