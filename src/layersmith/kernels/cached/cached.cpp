// Attention of one new token over a cache: see __init__.py.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>

#include "attend.h"

namespace layersmith {
namespace {

at::Tensor attend_one(
    const at::Tensor& qkv,
    const std::optional<at::Tensor>& table,
    int64_t position,
    const at::Tensor& keys,
    const at::Tensor& values,
    int64_t slots,
    int64_t heads,
    double scale,
    bool interleaved) {
  const int64_t width = keys.size(3);
  TORCH_CHECK(qkv.numel() == (heads + 2 * keys.size(1)) * width, "attend_one: wrong sizes");
  at::Tensor y = at::empty({1, 1, heads * width}, qkv.options());
  attend(
      qkv.const_data_ptr<float>(), table, position, keys, values, slots, heads, scale, interleaved,
      y.mutable_data_ptr<float>());
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("attend_one", attend_one);
}

}  // namespace layersmith
