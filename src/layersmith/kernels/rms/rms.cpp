// RMS norm, y = w x / sqrt(mean(x^2) + eps) + b, in two passes over a row that stays in the nearest cache.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <optional>

#include "rows.h"
#include "wide.h"

namespace layersmith {
namespace {

at::Tensor rms_norm(
    const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, double eps, bool offset) {
  const Rows s(x);
  TORCH_CHECK(weight.numel() == s.channels && (!bias || bias->numel() == s.channels), "rms_norm: a weight a channel");
  at::Tensor y = at::empty_like(x);
  const float *px = x.const_data_ptr<float>(), *pw = weight.const_data_ptr<float>();
  const float* pb = bias ? bias->const_data_ptr<float>() : nullptr;
  float* py = y.mutable_data_ptr<float>();
  const float added = offset ? 1.0f : 0.0f;
  s.each([&](int64_t row, int64_t) {
    const float* from = px + row * s.channels;
    float* to = py + row * s.channels;
    const double mean = static_cast<double>(dot_wide(from, from, s.channels)) / static_cast<double>(s.channels);
    const float factor = static_cast<float>(1.0 / std::sqrt(mean + eps));
    by_lanes(s.channels, [&](int64_t i, int64_t n) {
      const Lanes scaled = take(from, i, n) * factor * (take(pw, i, n) + added);
      store(to + i, pb ? scaled + take(pb, i, n) : scaled, n);
    });
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("rms_norm", rms_norm);
}

}  // namespace layersmith
