// F(x) = P(x) / (1 + |Q_g(x)|), one numerator and one denominator for each group of channels: see ffn/rational.py.
//
// Forward and backward each pass once over memory. With r = 1 / (1 + |Q|) and s = +1 where Q >= 0, else -1:
//   dF/dx = r (P' - F s Q'),   dF/da_i = r x^i,   dF/db_j = -r F s x^j
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "lanes.h"

namespace layersmith {
namespace {

constexpr int MOST = 10;  // highest degree served

struct Shape {
  int64_t rows, channels, groups, width, m, n, rows_per_block, blocks;

  Shape(const at::Tensor& x, const at::Tensor& a, const at::Tensor& b) {
    channels = x.size(-1);
    rows = channels ? x.numel() / channels : 0;
    groups = b.size(0);
    width = channels / groups;
    m = a.size(0) - 1;
    n = b.size(1);
    TORCH_CHECK(width * groups == channels, "rational: the groups must divide the channels");
    TORCH_CHECK(m <= MOST && n <= MOST, "rational: degrees above ", MOST, " are not served");
    rows_per_block = std::max<int64_t>(1, BLOCK / std::max<int64_t>(1, channels));
    blocks = (rows + rows_per_block - 1) / rows_per_block;
  }

  bool small() const { return m <= 5 && n <= 4; }
};

// Coefficients of degrees M and N, the missing ones 0: numerator a[0..M], then for each group b[0] = 0, b[1..N].
template <int M, int N>
struct Coefficients {
  float a[M + 1] = {};
  std::vector<std::array<float, N + 1>> b;

  Coefficients(const Shape& s, const at::Tensor& from_a, const at::Tensor& from_b) : b(s.groups) {
    const float *pa = from_a.const_data_ptr<float>(), *pb = from_b.const_data_ptr<float>();
    std::copy(pa, pa + s.m + 1, a);
    for (int64_t g = 0; g < s.groups; ++g) {
      b[g].fill(0);
      std::copy(pb + g * s.n, pb + (g + 1) * s.n, b[g].begin() + 1);
    }
  }
};

template <int D>
inline Lanes polynomial(const float* c, Lanes x) {
  Lanes p = broadcast(c[D]);
  for (int k = D - 1; k >= 0; --k) p = p * x + c[k];
  return p;
}

// The value, and in `slope` the derivative.
template <int D>
inline Lanes polynomial(const float* c, Lanes x, Lanes& slope) {
  Lanes p = broadcast(c[D]);
  slope = Lanes{};
  for (int k = D - 1; k >= 0; --k) {
    slope = slope * x + p;
    p = p * x + c[k];
  }
  return p;
}

template <int M, int N>
void forward(const Shape& s, const Coefficients<M, N>& c, const float* x, float* y) {
  at::parallel_for(0, s.blocks, 1, [&](int64_t first, int64_t last) {
    const int64_t end = std::min(last * s.rows_per_block, s.rows);
    for (int64_t row = first * s.rows_per_block; row < end; ++row) {
      for (int64_t g = 0; g < s.groups; ++g) {
        const float* b = c.b[g].data();
        const int64_t at = row * s.channels + g * s.width;
        by_lanes(s.width, [&](int64_t i, int64_t count) {
          const Lanes v = count == LANES ? load(x + at + i) : load(x + at + i, count);
          const Lanes q = polynomial<N>(b, v);
          store(y + at + i, polynomial<M>(c.a, v) / (1 + (q < 0 ? -q : q)), count);
        });
      }
    }
  });
}

// The sums of one slice (one row, one group) are added up in eight lanes of float, those of slices in double.
template <int M, int N>
void backward_slice(
    const float* grad, const float* x, float* dx, int64_t width, const float* a, const float* b, double* sums) {
  Lanes da[M + 1] = {}, db[N + 1] = {};
  by_lanes(width, [&](int64_t i, int64_t count) {
    const Lanes v = count == LANES ? load(x + i) : load(x + i, count);
    const Lanes g = count == LANES ? load(grad + i) : load(grad + i, count);
    Lanes dp, dq;
    const Lanes p = polynomial<M>(a, v, dp), q = polynomial<N>(b, v, dq);
    const Lanes sign = q >= 0 ? broadcast(1) : broadcast(-1);
    const Lanes r = 1 / (1 + q * sign);
    const Lanes u = g * r, fs = p * r * sign, w = -u * fs;
    store(dx + i, u * (dp - fs * dq), count);
    Lanes power = broadcast(1);
    for (int k = 0; k <= std::max(M, N); ++k) {
      if (k <= M) da[k] += u * power;
      if (k >= 1 && k <= N) db[k] += w * power;
      power *= v;
    }
  });
  for (int k = 0; k <= M; ++k) sums[k] += sum(da[k]);
  for (int k = 1; k <= N; ++k) sums[M + k] += sum(db[k]);
}

template <int M, int N>
void backward(
    const Shape& s, const Coefficients<M, N>& c, const float* grad, const float* x, float* dx, float* da, float* db) {
  const int64_t each = M + 1 + N;
  std::vector<double> partial(s.blocks * s.groups * each, 0.0);
  at::parallel_for(0, s.blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t end = std::min((block + 1) * s.rows_per_block, s.rows);
      for (int64_t row = block * s.rows_per_block; row < end; ++row) {
        for (int64_t g = 0; g < s.groups; ++g) {
          const int64_t at = row * s.channels + g * s.width;
          double* sums = partial.data() + (block * s.groups + g) * each;
          backward_slice<M, N>(grad + at, x + at, dx + at, s.width, c.a, c.b[g].data(), sums);
        }
      }
    }
  });
  std::vector<double> total(s.groups * each, 0.0);
  for (int64_t block = 0; block < s.blocks; ++block) {
    for (int64_t k = 0; k < s.groups * each; ++k) total[k] += partial[block * s.groups * each + k];
  }
  for (int64_t k = 0; k <= s.m; ++k) {
    double sum = 0;
    for (int64_t g = 0; g < s.groups; ++g) sum += total[g * each + k];
    da[k] = static_cast<float>(sum);
  }
  for (int64_t g = 0; g < s.groups; ++g) {
    for (int64_t k = 0; k < s.n; ++k) db[g * s.n + k] = static_cast<float>(total[g * each + M + 1 + k]);
  }
}

at::Tensor rational(const at::Tensor& x_, const at::Tensor& a_, const at::Tensor& b_) {
  const at::Tensor x = x_.contiguous(), a = a_.contiguous(), b = b_.contiguous();
  const Shape s(x, a, b);
  at::Tensor y = at::empty_like(x);
  const float* px = x.const_data_ptr<float>();
  float* py = y.mutable_data_ptr<float>();
  if (s.small()) {
    forward(s, Coefficients<5, 4>(s, a, b), px, py);
  } else {
    forward(s, Coefficients<MOST, MOST>(s, a, b), px, py);
  }
  return y;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> rational_backward(
    const at::Tensor& grad_, const at::Tensor& x_, const at::Tensor& a_, const at::Tensor& b_) {
  const at::Tensor grad = grad_.contiguous(), x = x_.contiguous(), a = a_.contiguous(), b = b_.contiguous();
  const Shape s(x, a, b);
  at::Tensor dx = at::empty_like(x), da = at::empty_like(a), db = at::empty_like(b);
  const float *pg = grad.const_data_ptr<float>(), *px = x.const_data_ptr<float>();
  float *pdx = dx.mutable_data_ptr<float>(), *pda = da.mutable_data_ptr<float>(), *pdb = db.mutable_data_ptr<float>();
  if (s.small()) {
    backward(s, Coefficients<5, 4>(s, a, b), pg, px, pdx, pda, pdb);
  } else {
    backward(s, Coefficients<MOST, MOST>(s, a, b), pg, px, pdx, pda, pdb);
  }
  return {dx, da, db};
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("rational", rational);
  m.impl("rational_backward", rational_backward);
}

}  // namespace layersmith
