// RMS norm of one row, y = (w + added) x / sqrt(mean(x^2) + eps) + b, in two passes; b may be null.
#pragma once

#include <cmath>

#include "lanes.h"
#include "wide.h"

namespace layersmith {

inline void rms_row(
    const float* x, const float* weight, const float* bias, double eps, float added, int64_t channels, float* y) {
  const double mean = static_cast<double>(dot_wide(x, x, channels)) / static_cast<double>(channels);
  const float factor = static_cast<float>(1.0 / std::sqrt(mean + eps));
  by_lanes(channels, [&](int64_t i, int64_t n) {
    const Lanes scaled = take(x, i, n) * factor * (take(weight, i, n) + added);
    store(y + i, bias ? scaled + take(bias, i, n) : scaled, n);
  });
}

}  // namespace layersmith
