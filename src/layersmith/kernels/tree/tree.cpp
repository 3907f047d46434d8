// Binary trees of neurons: walk down, computing only the neurons on the way, and add up their output rows.
//
// Tokens are kept in the order of the tree. A large group of tokens at one node is answered at once and split in two,
// so that the node's row and the group's tokens stay in cache; a small group goes down level by level, and while one
// token is multiplied the next token's row is already being fetched. The output rows are added in the same order.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace {

constexpr int64_t kSmall = 16;  // tokens in a group that goes down level by level
constexpr int64_t kLine = 16;   // floats in a cache line

// Four partial sums, each a vector: one alone would wait for its own last addition.
inline float dot(const float* a, const float* b, int64_t n) {
  const int64_t quarter = n / 4;
  float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (int64_t i = 0; i < quarter; ++i) {
    s0 += a[i] * b[i];
    s1 += a[i + quarter] * b[i + quarter];
    s2 += a[i + 2 * quarter] * b[i + 2 * quarter];
    s3 += a[i + 3 * quarter] * b[i + 3 * quarter];
  }
  for (int64_t i = 4 * quarter; i < n; ++i) s0 += a[i] * b[i];
  return (s0 + s1) + (s2 + s3);
}

inline void prefetch(const float* row, int64_t n) {
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(row + i);
}

struct Tree {
  const float* x;       // (tokens, d)
  const float* weight;  // (nodes, d)
  const float* bias;    // (nodes)
  float* logits;        // (tokens, stride), from this tree's first level on
  int64_t* rows;        // the same shape: the node's row in the weights of all trees
  int64_t d, levels, stride, first_row;

  // Token t at `node` of `level`: records the neuron, returns the child. A logit of exactly 0 goes left.
  int64_t step(int64_t t, int64_t node, int64_t level) const {
    const float logit = dot(x + t * d, weight + node * d, d) + bias[node];
    logits[t * stride + level] = logit;
    rows[t * stride + level] = first_row + node;
    return 2 * node + 1 + (logit > 0);
  }

  // Sorts `tokens`, `count` of them, into the order of the tree.
  void descend(int64_t node, int64_t level, int64_t* tokens, int64_t count, int64_t* scratch) const {
    if (level == levels || count == 0) return;
    if (count <= kSmall) return by_levels(node, level, tokens, count);
    int64_t left = 0, right = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t t = tokens[i];
      if (step(t, node, level) == 2 * node + 1)
        tokens[left++] = t;
      else
        scratch[right++] = t;
    }
    std::copy(scratch, scratch + right, tokens + left);
    descend(2 * node + 1, level + 1, tokens, left, scratch);
    descend(2 * node + 2, level + 1, tokens + left, right, scratch);
  }

  void by_levels(int64_t node, int64_t level, const int64_t* tokens, int64_t count) const {
    int64_t at[kSmall];
    std::fill(at, at + count, node);
    for (; level < levels; ++level)
      for (int64_t i = 0; i < count; ++i) {
        if (i + 1 < count && at[i + 1] != at[i]) prefetch(weight + at[i + 1] * d, d);
        at[i] = step(tokens[i], at[i], level);
      }
  }
};

struct Forest {
  const float *x, *weight, *bias;
  int64_t d, trees, nodes, levels = 0;

  Forest(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    TORCH_CHECK(x.dim() == 2 && weight.dim() == 3 && x.size(1) == weight.size(2) &&
                    bias.sizes() == weight.sizes().slice(0, 2),
                "a forest takes x (N, d), weight (P, nodes, d) and bias (P, nodes)");
    TORCH_CHECK(x.is_contiguous() && weight.is_contiguous() && bias.is_contiguous(), "a forest takes contiguous tensors");
    d = x.size(1), trees = weight.size(0), nodes = weight.size(1);
    while ((int64_t{1} << levels) - 1 < nodes) ++levels;
    TORCH_CHECK((int64_t{1} << levels) - 1 == nodes, nodes, " nodes are not a complete binary tree");
    this->x = x.const_data_ptr<float>();
    this->weight = weight.const_data_ptr<float>();
    this->bias = bias.const_data_ptr<float>();
  }

  int64_t stride() const { return trees * levels; }

  // Tokens begin..end of x; logits and rows (end - begin, stride). Returns those tokens in the order of the last tree.
  std::vector<int64_t> descend(int64_t begin, int64_t end, float* logits, int64_t* rows) const {
    std::vector<int64_t> order(end - begin), scratch(end - begin);
    std::iota(order.begin(), order.end(), 0);
    for (int64_t p = 0; p < trees; ++p) {
      const Tree tree{x + begin * d, weight + p * nodes * d, bias + p * nodes, logits + p * levels, rows + p * levels,
                      d, levels, stride(), p * nodes};
      tree.descend(0, 0, order.data(), end - begin, scratch.data());
    }
    return order;
  }
};

enum class Activation { kIdentity, kRelu, kRelu2, kSilu, kGelu, kGeluTanh };

constexpr std::pair<std::string_view, Activation> kActivations[] = {
    {"identity", Activation::kIdentity}, {"relu", Activation::kRelu}, {"relu2", Activation::kRelu2},
    {"silu", Activation::kSilu},         {"gelu", Activation::kGelu}, {"gelu_tanh", Activation::kGeluTanh},
};

float apply(Activation act, float l) {
  switch (act) {
    case Activation::kRelu: return std::max(l, 0.0f);
    case Activation::kRelu2: return std::max(l, 0.0f) * std::max(l, 0.0f);
    case Activation::kSilu: return l / (1.0f + std::exp(-l));
    case Activation::kGelu: return 0.5f * l * (1.0f + std::erf(l * 0.70710678f));
    case Activation::kGeluTanh: return 0.5f * l * (1.0f + std::tanh(0.79788456f * (l + 0.044715f * l * l * l)));
    default: return l;
  }
}

Activation named(std::string_view name) {
  for (const auto& [known, act] : kActivations)
    if (name == known) return act;
  TORCH_CHECK(false, "tree_mlp does not know the activation ", name);
}

// One output row: the sum over k of value[k] * weight[rows[k]], four rows at a time.
void weighted_rows(const float* value, const int64_t* rows, int64_t k, const float* weight, int64_t d, float* out) {
  std::fill(out, out + d, 0.0f);
  int64_t j = 0;
  for (; j + 4 <= k; j += 4) {
    const float *r0 = weight + rows[j] * d, *r1 = weight + rows[j + 1] * d;
    const float *r2 = weight + rows[j + 2] * d, *r3 = weight + rows[j + 3] * d;
    const float v0 = value[j], v1 = value[j + 1], v2 = value[j + 2], v3 = value[j + 3];
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) out[i] += v0 * r0[i] + v1 * r1[i] + v2 * r2[i] + v3 * r3[i];
  }
  for (; j < k; ++j) {
    const float* row = weight + rows[j] * d;
    const float v = value[j];
#pragma omp simd
    for (int64_t i = 0; i < d; ++i) out[i] += v * row[i];
  }
}

// x (N, d), weight (P, nodes, d), bias (P, nodes) -> logits and rows, both (N, P, levels)
std::tuple<at::Tensor, at::Tensor> tree_descend(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const Forest forest(x, weight, bias);
  at::Tensor logits = at::empty({x.size(0), weight.size(0), forest.levels}, x.options());
  at::Tensor rows = at::empty({x.size(0), weight.size(0), forest.levels}, x.options().dtype(at::kLong));
  float* to_logits = logits.mutable_data_ptr<float>();
  int64_t* to_rows = rows.mutable_data_ptr<int64_t>();
  at::parallel_for(0, x.size(0), kSmall, [&](int64_t begin, int64_t end) {
    const int64_t at = begin * forest.stride();
    forest.descend(begin, end, to_logits + at, to_rows + at);
  });
  return {logits, rows};
}

// ... and y (N, d), the sum over the nodes passed of act(logit) * down[row]
at::Tensor tree_mlp(
    const at::Tensor& x, const at::Tensor& up, const at::Tensor& bias, const at::Tensor& down, std::string_view act) {
  const Forest forest(x, up, bias);
  TORCH_CHECK(down.sizes() == up.sizes() && down.is_contiguous(), "tree_mlp: down has the shape of up, contiguous");
  const Activation activation = named(act);
  const int64_t d = forest.d, stride = forest.stride();
  at::Tensor y = at::empty({x.size(0), d}, x.options());
  float* out = y.mutable_data_ptr<float>();
  const float* weight = down.const_data_ptr<float>();
  at::parallel_for(0, x.size(0), kSmall, [&](int64_t begin, int64_t end) {
    std::vector<float> value((end - begin) * stride);
    std::vector<int64_t> rows(value.size());
    const std::vector<int64_t> order = forest.descend(begin, end, value.data(), rows.data());
    for (float& v : value) v = apply(activation, v);
    for (const int64_t t : order)  // neighbours in the tree share most of their rows
      weighted_rows(&value[t * stride], &rows[t * stride], stride, weight, d, out + (begin + t) * d);
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("tree_descend", tree_descend);
  m.impl("tree_mlp", tree_mlp);
}
