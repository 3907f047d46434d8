// y = W x + b for one token: see __init__.py. Every row of W is read once, from front to back, by one thread.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <optional>

#include "rows_of.h"

namespace layersmith {
namespace {

at::Tensor one_row(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return product_of(FloatRows(weight), x, bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("one_row", one_row);
}

}  // namespace layersmith
