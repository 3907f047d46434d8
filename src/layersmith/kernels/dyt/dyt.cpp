// Dynamic Tanh, y = w tanh(alpha x) + b: see norm/dyt.py. One pass over memory each way.
//
// With t = tanh(alpha x) and s = g w (1 - t^2):   dx = alpha s,   dalpha = sum s x,   dw = sum g t,   db = sum g
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "rows.h"

namespace layersmith {
namespace {

// tanh of eight numbers to within 3e-7 of its value: the fraction [5/4] of its continued fraction at a quarter of the
// argument, and tanh(2u) = 2 tanh(u) / (1 + tanh(u)^2) twice, on numerator and denominator, so that one division is
// left. Beyond 9.2 the result rounds to 1.
inline Lanes tanh_of(Lanes z) {
  const Lanes high = broadcast(9.2f), low = broadcast(-9.2f);
  z = z > high ? high : z;  // a comparison with NaN is false, and NaN stays
  z = z < low ? low : z;
  const Lanes u = 0.25f * z, s = u * u;
  const Lanes p = u * (945 + s * (105 + s)), q = 945 + s * (420 + 15 * s);
  const Lanes n = 2 * p * q, d = p * p + q * q;
  return 2 * n * d / (n * n + d * d);
}

at::Tensor dyt(
    const at::Tensor& x_, const at::Tensor& alpha_, const at::Tensor& weight_, const std::optional<at::Tensor>& bias_) {
  const at::Tensor x = x_.contiguous(), weight = weight_.contiguous();
  const at::Tensor bias = bias_ ? bias_->contiguous() : at::zeros_like(weight);
  const Rows s(x);
  TORCH_CHECK(weight.numel() == s.channels && bias.numel() == s.channels, "dyt: one weight for each channel");
  at::Tensor y = at::empty_like(x);
  const float alpha = *alpha_.const_data_ptr<float>();
  const float *px = x.const_data_ptr<float>(), *pw = weight.const_data_ptr<float>(), *pb = bias.const_data_ptr<float>();
  float* py = y.mutable_data_ptr<float>();
  s.each([&](int64_t row, int64_t) {
    const float* from = px + row * s.channels;
    float* to = py + row * s.channels;
    by_lanes(s.channels, [&](int64_t i, int64_t n) {
      store(to + i, take(pw, i, n) * tanh_of(alpha * take(from, i, n)) + take(pb, i, n), n);
    });
  });
  return y;
}

// A block's share of dalpha, dw and db is added up in float, those of blocks in double, in their order.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> dyt_backward(
    const at::Tensor& grad_, const at::Tensor& x_, const at::Tensor& alpha_, const at::Tensor& weight_) {
  const at::Tensor grad = grad_.contiguous(), x = x_.contiguous(), weight = weight_.contiguous();
  const Rows s(x);
  at::Tensor dx = at::empty_like(x), dalpha = at::empty_like(alpha_);
  at::Tensor dw = at::empty_like(weight), db = at::empty_like(weight);
  const float alpha = *alpha_.const_data_ptr<float>();
  const float *pg = grad.const_data_ptr<float>(), *px = x.const_data_ptr<float>(), *pw = weight.const_data_ptr<float>();
  float *pdx = dx.mutable_data_ptr<float>(), *pdw = dw.mutable_data_ptr<float>(), *pdb = db.mutable_data_ptr<float>();
  const int64_t each = 2 * s.channels + LANES;  // dw, db, eight partial sums of dalpha
  std::vector<float> partial(s.blocks * each, 0.0f);
  s.each([&](int64_t row, int64_t block) {
    const float *g = pg + row * s.channels, *from = px + row * s.channels;
    float *to = pdx + row * s.channels, *w_sum = partial.data() + block * each, *b_sum = w_sum + s.channels;
    Lanes alpha_sum = load(b_sum + s.channels);
    by_lanes(s.channels, [&](int64_t i, int64_t n) {
      const Lanes v = take(from, i, n), slope = take(g, i, n), t = tanh_of(alpha * v);
      const Lanes inner = slope * take(pw, i, n) * (1 - t * t);
      store(to + i, alpha * inner, n);
      alpha_sum += inner * v;
      store(w_sum + i, take(w_sum, i, n) + slope * t, n);
      store(b_sum + i, take(b_sum, i, n) + slope, n);
    });
    store(b_sum + s.channels, alpha_sum);
  });
  std::vector<double> total(each, 0.0);
  for (int64_t block = 0; block < s.blocks; ++block) {
    for (int64_t i = 0; i < each; ++i) total[i] += partial[block * each + i];
  }
  double sum = 0;
  for (int64_t i = 2 * s.channels; i < each; ++i) sum += total[i];
  *dalpha.mutable_data_ptr<float>() = static_cast<float>(sum);
  for (int64_t i = 0; i < s.channels; ++i) {
    pdw[i] = static_cast<float>(total[i]);
    pdb[i] = static_cast<float>(total[s.channels + i]);
  }
  return {dx, dalpha, dw, db};
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("dyt", dyt);
  m.impl("dyt_backward", dyt_backward);
}

}  // namespace layersmith
