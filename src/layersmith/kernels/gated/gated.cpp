// y = silu(g) u for rows [g, u], in one pass.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "rows.h"
#include "wide.h"

namespace layersmith {
namespace {

// g / (1 + e^-g), by the exponential of what is not positive, which cannot overflow. NaN stays NaN.
inline Wide silu(Wide g) {
  const Wide e = exp_of_negative(g > 0.0f ? -g : g);
  return g * (g > 0.0f ? widely(1.0f) : e) / (1.0f + e);
}

at::Tensor silu_gate(const at::Tensor& gate_up) {
  const Rows s(gate_up);
  const int64_t half = s.channels / 2;
  TORCH_CHECK(s.channels % 2 == 0, "silu_gate: rows are not two halves");
  std::vector<int64_t> sizes = gate_up.sizes().vec();
  sizes.back() = half;
  at::Tensor y = at::empty(sizes, gate_up.options());
  const float* px = gate_up.const_data_ptr<float>();
  float* py = y.mutable_data_ptr<float>();
  s.each([&](int64_t row, int64_t) {
    const float *gate = px + row * s.channels, *up = gate + half;
    for (int64_t i = 0; i < half; i += WIDE) {
      const int64_t count = std::min(WIDE, half - i);
      const Wide v = silu(wide(gate + i, count)) * wide(up + i, count);
      std::memcpy(py + row * half + i, &v, count * sizeof(float));
    }
  });
  return y;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("silu_gate", silu_gate);
}

}  // namespace layersmith
