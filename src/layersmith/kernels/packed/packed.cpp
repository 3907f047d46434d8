// y = W x + b for one token and W on a grid of packed integers; and W itself. See __init__.py.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>

#include "rows_of.h"

namespace layersmith {
namespace {

at::Tensor packed_row(
    const at::Tensor& x,
    const at::Tensor& packed,
    const at::Tensor& scale,
    const at::Tensor& zero,
    const std::optional<at::Tensor>& bias,
    int64_t bits) {
  if (bits == 8) return product_of(ByteRows(packed, scale, zero), x, bias);
  TORCH_CHECK(bits == 4, "packed_row: codes of 8 or 4 bits");
  return product_of(HalfRows(packed, scale, zero), x, bias);
}

at::Tensor packed_row_int8(
    const at::Tensor& x,
    const at::Tensor& packed,
    const at::Tensor& scale,
    const at::Tensor& zero,
    const std::optional<at::Tensor>& bias) {
  return product_of(HalfRowsInt8(packed, scale, zero), x, bias);
}

at::Tensor unpacked(const at::Tensor& packed, const at::Tensor& scale, const at::Tensor& zero, int64_t bits) {
  const Grid grid(packed, scale, zero, bits);
  at::Tensor weight = at::empty({grid.out, grid.in}, packed.options().dtype(at::kFloat));
  float* to = weight.mutable_data_ptr<float>();
  each_row(grid.out, grid.row_bytes, [&](int64_t row) {
    const uint8_t* codes = grid.codes + row * grid.row_bytes;
    for (int64_t i = 0; i < grid.in; ++i) {
      const int64_t g = row * grid.groups + i / grid.group;
      const int code = bits == 8 ? codes[i] : (codes[i / 2] >> (4 * (i % 2))) & 15;
      to[row * grid.in + i] = (static_cast<float>(code) - from_half(grid.zero[g])) * from_half(grid.scale[g]);
    }
  });
  return weight;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("packed_row", packed_row);
  m.impl("packed_row_int8", packed_row_int8);
  m.impl("unpacked", unpacked);
}

}  // namespace layersmith
