// Sparse reads of large tables: products with chosen rows, their gradient, and the best pairs of two score lists.
//
// Rows come from memory in an order nobody can foresee, so the next rows are asked for while this one is used.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

namespace {

constexpr int64_t LANES = 32;  // four vectors of eight: enough sums in flight to hide the latency of an addition
constexpr int64_t AHEAD = 4;   // rows asked for before they are used

void ask_for(const float* row, int64_t width) {
  for (int64_t i = 0; i < width; i += 16) __builtin_prefetch(row + i, 0, 3);
}

float dot(const float* a, const float* b, int64_t width) {
  float sums[LANES] = {0};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES)
    for (int64_t l = 0; l < LANES; ++l) sums[l] += a[i + l] * b[i + l];
  float total = 0;
  for (int64_t l = 0; l < LANES; ++l) total += sums[l];
  for (; i < width; ++i) total += a[i] * b[i];
  return total;
}

void add_scaled(float* sum, const float* row, float scale, int64_t width) {
  for (int64_t i = 0; i < width; ++i) sum[i] += scale * row[i];
}

void check_rows(const at::Tensor& index, int64_t rows) {
  const int64_t* chosen = index.const_data_ptr<int64_t>();
  bool inside = true;
  for (int64_t i = 0; i < index.numel(); ++i) inside &= chosen[i] >= 0 && chosen[i] < rows;
  TORCH_CHECK(inside, "a row index lies outside the table of ", rows, " rows");
}

// Tokens for one thread: a few rows' worth of work each, so that threads stay even.
int64_t grain(int64_t per_token) { return std::max<int64_t>(1, 64 / std::max<int64_t>(1, per_token)); }

// dots[n, k] = table[index[n, k]] . x[n]
at::Tensor rows_dot(const at::Tensor& x, const at::Tensor& table, const at::Tensor& index) {
  const int64_t tokens = index.size(0), k = index.size(1), width = table.size(1);
  check_rows(index, table.size(0));
  at::Tensor out = at::empty({tokens, k}, x.options());
  const float* from = table.const_data_ptr<float>();
  const float* vectors = x.const_data_ptr<float>();
  const int64_t* chosen = index.const_data_ptr<int64_t>();
  float* dots = out.data_ptr<float>();
  at::parallel_for(0, tokens, grain(k), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin * k; p < std::min(begin * k + AHEAD, end * k); ++p) ask_for(from + chosen[p] * width, width);
    for (int64_t n = begin; n < end; ++n)
      for (int64_t p = n * k; p < (n + 1) * k; ++p) {
        if (p + AHEAD < end * k) ask_for(from + chosen[p + AHEAD] * width, width);
        dots[p] = dot(from + chosen[p] * width, vectors + n * width, width);
      }
  });
  return out;
}

// table[e] = sum of weight[n, k] * x[n] over the pairs with index[n, k] = e, in the order of the pairs
at::Tensor rows_scatter(const at::Tensor& weight, const at::Tensor& x, const at::Tensor& index, int64_t rows) {
  const int64_t pairs = index.numel(), k = index.size(1), width = x.size(1);
  check_rows(index, rows);
  const int64_t* chosen = index.const_data_ptr<int64_t>();
  std::vector<int64_t> start(rows + 1, 0), order(pairs);
  for (int64_t p = 0; p < pairs; ++p) ++start[chosen[p] + 1];
  for (int64_t e = 0; e < rows; ++e) start[e + 1] += start[e];
  {
    std::vector<int64_t> next(start.begin(), start.end() - 1);
    for (int64_t p = 0; p < pairs; ++p) order[next[chosen[p]]++] = p;
  }
  at::Tensor out = at::zeros({rows, width}, x.options());
  const float* scale = weight.const_data_ptr<float>();
  const float* vectors = x.const_data_ptr<float>();
  float* sums = out.data_ptr<float>();
  at::parallel_for(0, rows, 256, [&](int64_t begin, int64_t end) {
    for (int64_t e = begin; e < end; ++e)
      for (int64_t i = start[e]; i < start[e + 1]; ++i)
        add_scaled(sums + e * width, vectors + (order[i] / k) * width, scale[order[i]], width);
  });
  return out;
}

// Finds the k largest of n scores, with hardly a branch that depends on them.
class Largest {
 public:
  Largest(int64_t n, int64_t k) : n_(n), k_(k), value_(n + VECTOR), place_(n), best_(k + 1), where_(k + 1), taken_(k + 1) {}

  // Afterwards `where()` holds the places of the k largest scores and `best()` their values, in falling order.
  void find(const float* scores) {
    const int64_t kept = shortlist(scores, bound(scores));
    std::fill(value_.begin() + kept, value_.begin() + kept + VECTOR, -std::numeric_limits<float>::infinity());
    std::fill(taken_.begin(), taken_.end(), 0);
    const float* values = value_.data();
    for (int64_t i = 0; i < kept; ++i) {
      Floats value = {};
      value += values[i];
      Ints larger = {};
      for (int64_t j = 0; j < kept; j += VECTOR) larger -= load(values + j) > value;  // a true comparison is -1
      int64_t rank = 0;
      for (int64_t l = 0; l < VECTOR; ++l) rank += larger[l];
      while (rank < k_ && taken_[rank]) ++rank;  // equal scores have equal ranks
      rank = std::min(rank, k_);                 // the last entry takes what is too small, to save a branch
      taken_[rank] = 1;
      best_[rank] = values[i];
      where_[rank] = place_[i];
    }
  }

  const std::vector<float>& best() const { return best_; }
  const std::vector<int32_t>& where() const { return where_; }

 private:
  static constexpr int64_t VECTOR = 8;
  using Floats = float __attribute__((vector_size(4 * VECTOR)));
  using Ints = int32_t __attribute__((vector_size(4 * VECTOR)));

  static Floats load(const float* from) {
    Floats values;
    std::memcpy(&values, from, sizeof(values));
    return values;
  }

  // At most the k-th largest score: the least of the maxima of k interleaved lanes, which are k scores.
  float bound(const float* scores) const {
    float least = std::numeric_limits<float>::infinity();
    int64_t lane = 0;
    for (; lane + VECTOR <= k_; lane += VECTOR) {
      Floats high = load(scores + lane);
      for (int64_t i = lane + k_; i + VECTOR <= n_; i += k_) {
        const Floats next = load(scores + i);
        high = high < next ? next : high;
      }
      for (int64_t l = 0; l < VECTOR; ++l) least = std::min(least, high[l]);
    }
    for (; lane < k_; ++lane) {
      float high = scores[lane];
      for (int64_t i = lane + k_; i < n_; i += k_) high = std::max(high, scores[i]);
      least = std::min(least, high);
    }
    return least;
  }

  int64_t shortlist(const float* scores, float bound) {
    int64_t kept = 0;
    float* values = value_.data();
    int32_t* places = place_.data();
    for (int64_t i = 0; i < n_; ++i) {
      values[kept] = scores[i];
      places[kept] = static_cast<int32_t>(i);
      kept += scores[i] >= bound;
    }
    return kept;
  }

  int64_t n_, k_;
  std::vector<float> value_;
  std::vector<int32_t> place_;
  std::vector<float> best_;
  std::vector<int32_t> where_;
  std::vector<char> taken_;
};

// For each (head, token): the k pairs (a, b) with the largest first[a] + second[b], as a * n + b.
// scores (heads, 2, tokens, n) -> (tokens, heads, k)
at::Tensor best_pairs(const at::Tensor& scores, int64_t k) {
  const int64_t heads = scores.size(0), tokens = scores.size(2), n = scores.size(3), kept = std::min(k, n);
  TORCH_CHECK(0 < k && k <= n * n, "there are ", n * n, " pairs, not ", k);
  at::Tensor out = at::empty({tokens, heads, k}, scores.options().dtype(at::kLong));
  const float* all = scores.const_data_ptr<float>();
  int64_t* pairs = out.data_ptr<int64_t>();
  // With both lists falling, (a, b) is no better than the (a + 1)(b + 1) pairs at or before it in both lists:
  // only pairs with (a + 1)(b + 1) <= k can be among the k best.
  std::vector<int32_t> left, right;
  for (int64_t a = 0; a < kept; ++a)
    for (int64_t b = 0; b < kept && (a + 1) * (b + 1) <= k; ++b) {
      left.push_back(static_cast<int32_t>(a));
      right.push_back(static_cast<int32_t>(b));
    }
  const int64_t candidates = static_cast<int64_t>(left.size());
  at::parallel_for(0, tokens, 8, [&](int64_t begin, int64_t end) {
    Largest first(n, kept), second(n, kept), best(candidates, k);
    std::vector<float> sums(candidates);
    for (int64_t t = begin; t < end; ++t)
      for (int64_t h = 0; h < heads; ++h) {
        first.find(all + (2 * h * tokens + t) * n);
        second.find(all + ((2 * h + 1) * tokens + t) * n);
        for (int64_t c = 0; c < candidates; ++c) sums[c] = first.best()[left[c]] + second.best()[right[c]];
        best.find(sums.data());
        for (int64_t i = 0; i < k; ++i) {
          const int32_t c = best.where()[i];
          pairs[(t * heads + h) * k + i] = first.where()[left[c]] * n + second.where()[right[c]];
        }
      }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(layersmith, m) {
  m.def("rows_dot_cpu(Tensor x, Tensor table, Tensor index) -> Tensor");
  m.def("rows_scatter_cpu(Tensor weight, Tensor x, Tensor index, int rows) -> Tensor");
  m.def("best_pairs_cpu(Tensor scores, int k) -> Tensor");
}

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("rows_dot_cpu", rows_dot);
  m.impl("rows_scatter_cpu", rows_scatter);
  m.impl("best_pairs_cpu", best_pairs);
}
