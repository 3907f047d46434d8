// y = silu(g) u for rows [g, u], in one pass.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "gate_row.h"
#include "rows.h"

namespace layersmith {
namespace {

at::Tensor silu_gate(const at::Tensor& gate_up) {
  const Rows s(gate_up);
  const int64_t half = s.channels / 2;
  TORCH_CHECK(s.channels % 2 == 0, "silu_gate: rows are not two halves");
  std::vector<int64_t> sizes = gate_up.sizes().vec();
  sizes.back() = half;
  at::Tensor y = at::empty(sizes, gate_up.options());
  const float* px = gate_up.const_data_ptr<float>();
  float* py = y.mutable_data_ptr<float>();
  s.each([&](int64_t row, int64_t) { silu_gate_row(px + row * s.channels, half, py + row * half); });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("silu_gate", silu_gate);
}

}  // namespace layersmith
