// RMS norm, y = w x / sqrt(mean(x^2) + eps) + b, in two passes over a row that stays in the nearest cache.
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <optional>

#include "rms_row.h"
#include "rows.h"

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
    rms_row(px + row * s.channels, pw, pb, eps, added, s.channels, py + row * s.channels);
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("rms_norm", rms_norm);
}

}  // namespace layersmith
