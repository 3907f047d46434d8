// The hidden layer of a gated feed-forward, silu(g) u, for one row.
#pragma once

#include "wide.h"

namespace layersmith {

// g / (1 + e^-g), by the exponential of what is not positive, which cannot overflow. NaN stays NaN.
inline Wide silu(Wide g) {
  const Wide e = exp_of_negative(g > 0.0f ? -g : g);
  return g * (g > 0.0f ? widely(1.0f) : e) / (1.0f + e);
}

// Of a row [g, u] of two halves.
inline void silu_gate_row(const float* gate_up, int64_t half, float* y) {
  const float *gate = gate_up, *up = gate_up + half;
  for (int64_t i = 0; i < half; i += WIDE) {
    const int64_t count = std::min(WIDE, half - i);
    const Wide v = silu(wide(gate + i, count)) * wide(up + i, count);
    std::memcpy(y + i, &v, count * sizeof(float));
  }
}

}  // namespace layersmith
