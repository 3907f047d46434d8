// PolyNorm's and PolyReLU's activations: see ffn/poly_norm.py and ffn/poly_relu.py. One pass over memory each way: a
// row of the hidden layer stays in the first-level cache between the two times that PolyNorm needs it.
//
// PolyNorm, with r_i = 1 / sqrt(mean_j h_j^2i + eps) and s_i = sum_j g_j h_j^i over the C channels of one token:
//   y_j = a_0 + sum_i a_i r_i h_j^i,   da_i = r_i s_i,   da_0 = sum_j g_j
//   dh_j = sum_i i h_j^(i-1) a_i r_i (g_j - r_i^2 s_i h_j^i / C)
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "rows.h"

namespace layersmith {
namespace {

constexpr int MOST = 6;  // highest order served

// r[i] for i = 1..ORDER.
template <int ORDER>
void inverse_sizes(const float* h, int64_t channels, double eps, float* r) {
  Lanes squares[ORDER + 1] = {};
  by_lanes(channels, [&](int64_t j, int64_t count) {
    const Lanes v = take(h, j, count);
    Lanes power = v;
    for (int i = 1; i <= ORDER; ++i) {
      squares[i] += power * power;
      power *= v;
    }
  });
  for (int i = 1; i <= ORDER; ++i) {
    r[i] = static_cast<float>(1 / std::sqrt(static_cast<double>(sum(squares[i])) / channels + eps));
  }
}

template <int ORDER>
void norm_forward(const Rows& s, const float* a, double eps, const float* h_, float* y_) {
  s.each([&](int64_t row, int64_t) {
    const float* h = h_ + row * s.channels;
    float* y = y_ + row * s.channels;
    float r[ORDER + 1];
    inverse_sizes<ORDER>(h, s.channels, eps, r);
    float c[ORDER + 1] = {a[0]};
    for (int i = 1; i <= ORDER; ++i) c[i] = a[i] * r[i];
    by_lanes(s.channels, [&](int64_t j, int64_t count) {
      const Lanes v = take(h, j, count);
      Lanes p = broadcast(c[ORDER]);
      for (int i = ORDER - 1; i >= 0; --i) p = p * v + c[i];
      store(y + j, p, count);
    });
  });
}

// `partial` holds ORDER + 1 doubles for each block: what it adds to the gradient of a.
template <int ORDER>
void norm_backward(
    const Rows& s, const float* a, double eps, const float* g_, const float* h_, float* dh_, double* partial) {
  s.each([&](int64_t row, int64_t block) {
    const float *h = h_ + row * s.channels, *g = g_ + row * s.channels;
    float* dh = dh_ + row * s.channels;
    float r[ORDER + 1];
    inverse_sizes<ORDER>(h, s.channels, eps, r);
    Lanes moments[ORDER + 1] = {};
    by_lanes(s.channels, [&](int64_t j, int64_t count) {
      const Lanes v = take(h, j, count);
      Lanes power = take(g, j, count);
      for (int i = 0; i <= ORDER; ++i) {
        moments[i] += power;
        power *= v;
      }
    });
    double* da = partial + block * (ORDER + 1);
    da[0] += sum(moments[0]);
    float left[ORDER + 1], right[ORDER + 1];  // dh = g * sum_i left_i h^(i-1) - sum_i right_i h^(2i-1)
    for (int i = 1; i <= ORDER; ++i) {
      const float s_i = sum(moments[i]);
      da[i] += static_cast<double>(r[i]) * s_i;
      left[i] = i * a[i] * r[i];
      right[i] = left[i] * (r[i] * s_i) * r[i] / s.channels;
    }
    by_lanes(s.channels, [&](int64_t j, int64_t count) {
      const Lanes v = take(h, j, count), square = v * v;
      Lanes p = broadcast(left[ORDER]), q = broadcast(right[ORDER]);
      for (int i = ORDER - 1; i >= 1; --i) {
        p = p * v + left[i];
        q = q * square + right[i];
      }
      store(dh + j, take(g, j, count) * p - v * q, count);
    });
  });
}

inline Lanes relu(Lanes v) {
  return v <= 0 ? Lanes{} : v;  // what is undefined stays undefined
}

template <int ORDER>
void relu_forward(const Rows& s, const float* a, double, const float* h, float* y) {
  s.each([&](int64_t row, int64_t) {
    const int64_t at = row * s.channels;
    by_lanes(s.channels, [&](int64_t j, int64_t count) {
      const Lanes v = relu(take(h + at, j, count));
      Lanes p = broadcast(a[ORDER]);
      for (int i = ORDER - 1; i >= 0; --i) p = p * v + a[i];
      store(y + at + j, p, count);
    });
  });
}

template <int ORDER>
void relu_backward(const Rows& s, const float* a, double, const float* g, const float* h, float* dh, double* partial) {
  s.each([&](int64_t row, int64_t block) {
    const int64_t at = row * s.channels;
    Lanes moments[ORDER + 1] = {};
    by_lanes(s.channels, [&](int64_t j, int64_t count) {
      const Lanes v = relu(take(h + at, j, count)), grad = take(g + at, j, count);
      Lanes slope = broadcast(ORDER * a[ORDER]);
      for (int i = ORDER - 1; i >= 1; --i) slope = slope * v + i * a[i];
      store(dh + at + j, v == 0 ? Lanes{} : grad * slope, count);
      Lanes power = grad;
      for (int i = 0; i <= ORDER; ++i) {
        moments[i] += power;
        power *= v;
      }
    });
    for (int i = 0; i <= ORDER; ++i) partial[block * (ORDER + 1) + i] += sum(moments[i]);
  });
}

// Calls run with the order as a constant, so that its loops are unrolled and its sums stay in registers.
template <typename Run>
void by_order(int64_t order, Run run) {
  switch (order) {
    case 1: return run(std::integral_constant<int, 1>());
    case 2: return run(std::integral_constant<int, 2>());
    case 3: return run(std::integral_constant<int, 3>());
    case 4: return run(std::integral_constant<int, 4>());
    case 5: return run(std::integral_constant<int, 5>());
    case MOST: return run(std::integral_constant<int, MOST>());
    default: TORCH_CHECK(false, "orders above ", MOST, " are not served");
  }
}

template <bool NORM>
at::Tensor forward(const at::Tensor& h_, const at::Tensor& a_, double eps) {
  const at::Tensor h = h_.contiguous(), a = a_.contiguous();
  at::Tensor y = at::empty_like(h);
  const Rows s(h);
  const float *ph = h.const_data_ptr<float>(), *pa = a.const_data_ptr<float>();
  float* py = y.mutable_data_ptr<float>();
  by_order(a.size(0) - 1, [&](auto order) {
    constexpr int ORDER = decltype(order)::value;
    (NORM ? norm_forward<ORDER> : relu_forward<ORDER>)(s, pa, eps, ph, py);
  });
  return y;
}

template <bool NORM>
std::tuple<at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_, const at::Tensor& h_, const at::Tensor& a_, double eps) {
  const at::Tensor grad = grad_.contiguous(), h = h_.contiguous(), a = a_.contiguous();
  at::Tensor dh = at::empty_like(h), da = at::empty_like(a);
  const Rows s(h);
  const float *pg = grad.const_data_ptr<float>(), *ph = h.const_data_ptr<float>(), *pa = a.const_data_ptr<float>();
  float *pdh = dh.mutable_data_ptr<float>(), *pda = da.mutable_data_ptr<float>();
  const int64_t each = a.size(0);
  std::vector<double> partial(s.blocks * each, 0.0);
  by_order(each - 1, [&](auto order) {
    constexpr int ORDER = decltype(order)::value;
    (NORM ? norm_backward<ORDER> : relu_backward<ORDER>)(s, pa, eps, pg, ph, pdh, partial.data());
  });
  for (int64_t i = 0; i < each; ++i) {
    double total = 0;
    for (int64_t block = 0; block < s.blocks; ++block) total += partial[block * each + i];
    pda[i] = static_cast<float>(total);
  }
  return {dh, da};
}

at::Tensor poly_norm(const at::Tensor& h, const at::Tensor& a, double eps) {
  return forward<true>(h, a, eps);
}

std::tuple<at::Tensor, at::Tensor> poly_norm_backward(
    const at::Tensor& grad, const at::Tensor& h, const at::Tensor& a, double eps) {
  return backward<true>(grad, h, a, eps);
}

at::Tensor poly_relu(const at::Tensor& h, const at::Tensor& a) {
  return forward<false>(h, a, 0);
}

std::tuple<at::Tensor, at::Tensor> poly_relu_backward(
    const at::Tensor& grad, const at::Tensor& h, const at::Tensor& a) {
  return backward<false>(grad, h, a, 0);
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("poly_norm", poly_norm);
  m.impl("poly_norm_backward", poly_norm_backward);
  m.impl("poly_relu", poly_relu);
  m.impl("poly_relu_backward", poly_relu_backward);
}

}  // namespace layersmith
