// y = softmax(scale q k^T, a token and those before it) v for many tokens: see __init__.py for the formula.
//
// Keys are laid out so that a register holds one channel of several of them, values so that it holds several channels of
// one; then both products are the same: few rows times a panel, all sums in registers. The scores of a block of queries
// stay in a core's own cache between the two. Above the diagonal nothing is computed but what fills up a panel.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "wide.h"

namespace layersmith {
namespace {

constexpr int64_t TILE = 6, PANEL = 2 * WIDE;
// Queries of a block: as many as have scores of that many bytes together, in whole tiles.
constexpr int64_t MOST_QUERIES = 8 * TILE, SCORE_BYTES = 1 << 18;

// c[row][0 .. PANEL) = sum over i of a[row][i] panel[i][0 .. PANEL).
template <int ROWS>
void multiply(const float* a, int64_t a_row, const float* panel, int64_t depth, float* c, int64_t c_row) {
  Wide sums[ROWS][2] = {};
  for (int64_t i = 0; i < depth; ++i) {
    const Wide low = wide(panel + i * PANEL), high = wide(panel + i * PANEL + WIDE);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) {
      const Wide everywhere = widely(a[r * a_row + i]);
      sums[r][0] += everywhere * low;
      sums[r][1] += everywhere * high;
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
    std::memcpy(c + r * c_row, &sums[r][0], sizeof(Wide));
    std::memcpy(c + r * c_row + WIDE, &sums[r][1], sizeof(Wide));
  }
}

void multiply(int64_t rows, const float* a, int64_t a_row, const float* panel, int64_t depth, float* c, int64_t c_row) {
  switch (rows) {
    case 1: return multiply<1>(a, a_row, panel, depth, c, c_row);
    case 2: return multiply<2>(a, a_row, panel, depth, c, c_row);
    case 3: return multiply<3>(a, a_row, panel, depth, c, c_row);
    case 4: return multiply<4>(a, a_row, panel, depth, c, c_row);
    case 5: return multiply<5>(a, a_row, panel, depth, c, c_row);
    default: return multiply<6>(a, a_row, panel, depth, c, c_row);
  }
}

// Of `count` scores of a row those of what it may see become e^(scale (score - largest)), the others nothing; their sum.
float weights_of(float* scores, int64_t seen, int64_t count, float scale) {
  const float none = -std::numeric_limits<float>::infinity();
  const int64_t end = (seen + WIDE - 1) / WIDE * WIDE;  // panels are of whole registers
  Wide most = widely(none);
  for (int64_t t = 0; t + WIDE <= seen; t += WIDE) {
    const Wide v = wide(scores + t) * scale;
    std::memcpy(scores + t, &v, sizeof v);
    most = v > most ? v : most;
  }
  for (int64_t t = seen / WIDE * WIDE; t < end; ++t) scores[t] = t < seen ? scores[t] * scale : none;
  if (end > seen) {
    const Wide v = wide(scores + end - WIDE);
    most = v > most ? v : most;
  }
  float largest = none;
  for (int64_t l = 0; l < WIDE; ++l) largest = std::max(largest, most[l]);
  Wide total = {};
  for (int64_t t = 0; t < end; t += WIDE) {
    const Wide v = exp_of_negative(wide(scores + t) - largest);
    std::memcpy(scores + t, &v, sizeof v);
    total += v;
  }
  if (end < count) std::memset(scores + end, 0, (count - end) * sizeof(float));
  return sum_wide(total);
}

struct Heads {  // (B, H, T, d) as it lies in memory, channels side by side
  const float* data;
  int64_t batch, heads, tokens, width, of_batch, of_head, of_token;

  explicit Heads(const at::Tensor& x)
      : data(x.const_data_ptr<float>()),
        batch(x.size(0)), heads(x.size(1)), tokens(x.size(2)), width(x.size(3)),
        of_batch(x.stride(0)), of_head(x.stride(1)), of_token(x.stride(2)) {}

  const float* at(int64_t b, int64_t h, int64_t t) const {
    return data + b * of_batch + h * of_head + t * of_token;
  }
};

inline int64_t panels_of(int64_t count) {
  return (count + PANEL - 1) / PANEL;
}

// keys[panel of tokens][channel][token], zeros where there are no more tokens.
void lay_out_keys(const Heads& k, int64_t b, int64_t h, float* to) {
  for (int64_t t = 0; t < panels_of(k.tokens) * PANEL; ++t) {
    float* place = to + t / PANEL * k.width * PANEL + t % PANEL;
    for (int64_t i = 0; i < k.width; ++i) place[i * PANEL] = t < k.tokens ? k.at(b, h, t)[i] : 0.0f;
  }
}

// values[panel of channels][token][channel], zeros where there are no more channels.
void lay_out_values(const Heads& v, int64_t b, int64_t h, float* to) {
  for (int64_t start = 0; start < v.width; start += PANEL) {
    const int64_t count = std::min(PANEL, v.width - start);
    for (int64_t t = 0; t < v.tokens; ++t, to += PANEL) {
      std::memcpy(to, v.at(b, h, t) + start, count * sizeof(float));
      std::memset(to + count, 0, (PANEL - count) * sizeof(float));
    }
  }
}

// One block of queries: y[query][channel] for those from `first` to `last`.
void attend(
    const Heads& q, int64_t b, int64_t h, int64_t first, int64_t last, int64_t before, const float* keys,
    const float* values, int64_t tokens, int64_t v_width, float scale, std::vector<float>& scores, float* y,
    int64_t y_row) {
  const int64_t row = panels_of(before + last) * PANEL;
  scores.resize((last - first) * row);
  for (int64_t panel = 0; panel * PANEL < before + last; ++panel) {
    for (int64_t t = first; t < last; t += TILE) {
      const int64_t rows = std::min(TILE, last - t);
      if (panel * PANEL >= before + t + rows) continue;
      multiply(
          rows, q.at(b, h, t), q.of_token, keys + panel * q.width * PANEL, q.width,
          scores.data() + (t - first) * row + panel * PANEL, row);
    }
  }
  float shares[MOST_QUERIES], done[TILE][PANEL];
  for (int64_t t = first; t < last; ++t) {
    const int64_t tile_end = std::min(last, first + ((t - first) / TILE + 1) * TILE);
    float* own = scores.data() + (t - first) * row;
    shares[t - first] = 1.0f / weights_of(own, before + t + 1, panels_of(before + tile_end) * PANEL, scale);
  }
  for (int64_t start = 0; start < v_width; start += PANEL) {
    const int64_t count = std::min(PANEL, v_width - start);
    for (int64_t t = first; t < last; t += TILE) {
      const int64_t rows = std::min(TILE, last - t);
      multiply(
          rows, scores.data() + (t - first) * row, row, values + start * tokens, before + t + rows, done[0], PANEL);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t l = 0; l < PANEL; ++l) done[r][l] *= shares[t - first + r];
        std::memcpy(y + (t + r) * y_row + start, done[r], count * sizeof(float));
      }
    }
  }
}

at::Tensor causal_attention(
    const at::Tensor& q_, const at::Tensor& k_, const at::Tensor& v_, std::optional<double> scale_) {
  const auto side_by_side = [](const at::Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); };
  const at::Tensor qt = side_by_side(q_), kt = side_by_side(k_), vt = side_by_side(v_);
  const Heads q(qt), k(kt), v(vt);
  TORCH_CHECK(q.width == k.width && k.tokens == v.tokens && k.heads == v.heads, "causal_attention: sizes differ");
  TORCH_CHECK(k.batch == q.batch && v.batch == q.batch, "causal_attention: batches differ");
  TORCH_CHECK(k.heads && q.heads % k.heads == 0 && q.tokens <= k.tokens, "causal_attention: wrong sizes");
  const float scale = static_cast<float>(scale_.has_value() ? *scale_ : 1.0 / std::sqrt(static_cast<double>(q.width)));
  const int64_t before = k.tokens - q.tokens, shared = k.heads, group = q.heads / k.heads;
  const int64_t key_size = panels_of(k.tokens) * PANEL * k.width, value_size = panels_of(v.width) * PANEL * v.tokens;
  at::Tensor y = at::empty({q.batch, q.tokens, q.heads, v.width}, qt.options());
  float* py = y.mutable_data_ptr<float>();
  std::vector<float> keys(q.batch * shared * key_size), values(q.batch * shared * value_size);
  at::parallel_for(0, 2 * q.batch * shared, 1, [&](int64_t from, int64_t to) {
    for (int64_t task = from; task < to; ++task) {
      const int64_t place = task / 2, b = place / shared, h = place % shared;
      if (task % 2) lay_out_keys(k, b, h, keys.data() + place * key_size);
      else lay_out_values(v, b, h, values.data() + place * value_size);
    }
  });
  const int64_t fit = SCORE_BYTES / static_cast<int64_t>(sizeof(float)) / std::max<int64_t>(1, k.tokens) / TILE * TILE;
  const int64_t size = std::clamp<int64_t>(fit, TILE, MOST_QUERIES), blocks = (q.tokens + size - 1) / size;
  at::parallel_for(0, q.batch * q.heads * blocks, 1, [&](int64_t from, int64_t to) {
    std::vector<float> scores;
    for (int64_t task = from; task < to; ++task) {
      const int64_t head = task / blocks, turn = task % blocks, b = head / q.heads, h = head % q.heads;
      // Later blocks are longer: from both ends in turn, so that half of the tasks are half of the work.
      const int64_t block = turn % 2 ? blocks - 1 - turn / 2 : turn / 2, place = b * shared + h / group;
      attend(
          q, b, h, block * size, std::min(q.tokens, (block + 1) * size), before, keys.data() + place * key_size,
          values.data() + place * value_size, v.tokens, v.width, scale, scores,
          py + (b * q.tokens * q.heads + h) * v.width, q.heads * v.width);
    }
  });
  return y.transpose(1, 2);
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("causal_attention", causal_attention);
}

}  // namespace layersmith
