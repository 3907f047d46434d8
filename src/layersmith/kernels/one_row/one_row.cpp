// y = W x + b for one token: see __init__.py. Every row of W is read once, from front to back, by one thread.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <vector>

#include "shared_out.h"
#include "wide.h"

namespace layersmith {
namespace {

at::Tensor one_row(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const int64_t in = weight.size(1), out = weight.size(0);
  TORCH_CHECK(x.numel() == in && x.size(-1) == in, "one_row: x is not one row of ", in);
  TORCH_CHECK(!bias.has_value() || bias->numel() == out, "one_row: the bias is not ", out, " numbers");
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = out;
  at::Tensor y = at::empty(sizes, x.options());
  const float *px = x.const_data_ptr<float>(), *pw = weight.const_data_ptr<float>();
  const float* pb = bias.has_value() ? bias->const_data_ptr<float>() : nullptr;
  float* py = y.mutable_data_ptr<float>();
  each_row(out, in * sizeof(float), [&](int64_t row) {
    py[row] = dot_wide(pw + row * in, px, in) + (pb ? pb[row] : 0.0f);
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("one_row", one_row);
}

}  // namespace layersmith
