// y = step scale (q code^T) + bias with int8 q and code: see __init__.py for the formula and the reference.
//
// Rows are rounded in one pass over x (which stays in the nearest cache between finding its largest value and rounding
// it); torch's integer product then writes into the memory of y, where it is rescaled in place. A single row, for which
// that product's own start costs as much as its work, is multiplied here, the rows of the matrix shared out among threads.
// So are all rows on x86 without AVX512-VNNI, where torch's product is a plain loop, many times slower than float32's.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cstring>
#include <optional>
#include <vector>

#include "lanes.h"
#include "rows_of.h"
#include "whole.h"

#if defined(__AVX2__) && !(defined(__AVX512VNNI__) && defined(__AVX512BW__))
#define LAYERSMITH_OWN_PRODUCT
#endif

namespace layersmith {
namespace {

// Whole numbers in the memory of y become floats there.
void rescale_row(float* y, const float* scale, const float* bias, int64_t n, float step) {
  for (int64_t i = 0; i < n; ++i) {
    int32_t whole;
    std::memcpy(&whole, y + i, sizeof whole);
    y[i] = rescaled(whole, scale[i], step, bias ? bias[i] : 0.0f);
  }
}

#ifdef LAYERSMITH_OWN_PRODUCT
// Below this many rows laying out the weights costs more than it saves.
constexpr int64_t FEW = 6;
// Rows that a panel of weights is laid out for at a time: about as many as fit a core's second cache, and enough to be
// worth it. All groups are of one size, so that threads with as many of them have as much to do.
int64_t rows_together(int64_t rows, int64_t width) {
  constexpr int64_t CACHED = 1 << 17, ENOUGH = 16;
  const int64_t tiles = (rows + TILE - 1) / TILE, most = std::max(ENOUGH, CACHED / (TILE * width));
  const int64_t groups = (tiles + most - 1) / most;
  return (tiles + groups - 1) / groups * TILE;
}

void few_rows(
    const float* x, const int8_t* codes, const float* scale, const float* bias, int64_t rows, int64_t in, int64_t out,
    float* y) {
  std::vector<int8_t> q(rows * in);
  std::vector<float> steps(rows);
  for (int64_t r = 0; r < rows; ++r) steps[r] = rounded(x + r * in, q.data() + r * in, in);
  each_row(out, in, [&](int64_t o) {
    for (int64_t r = 0; r < rows; ++r) {
      const int32_t whole = dot_int8(codes + o * in, q.data() + r * in, in);
      y[r * out + o] = rescaled(whole, scale[o], steps[r], bias ? bias[o] : 0.0f);
    }
  });
}

void many_rows(
    const float* x, const int8_t* codes, const float* scale, const float* bias, int64_t rows, int64_t in, int64_t out,
    float* y) {
  const int64_t width = filled_up(in), panels = (out + PANEL - 1) / PANEL;
  const int64_t together = rows_together(rows, width), groups = (rows + together - 1) / together;
  std::vector<int16_t> q(rows * width);  // zeros, and so they stay beyond `in`
  std::vector<float> steps(rows);
  at::parallel_for(0, rows, std::max<int64_t>(1, BLOCK / in), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) steps[r] = rounded(x + r * in, q.data() + r * width, in);
  });
  at::parallel_for(0, groups * panels, 1, [&](int64_t first, int64_t last) {
    std::vector<int16_t> panel(width * PANEL);
    int32_t sums[TILE][PANEL];
    float scales[PANEL] = {}, biases[PANEL] = {}, done[PANEL];
    for (int64_t task = first; task < last; ++task) {
      const int64_t start = task % panels * PANEL, count = std::min(PANEL, out - start);
      const int64_t from = task / panels * together, end = std::min(rows, from + together);
      std::memcpy(scales, scale + start, count * sizeof(float));
      if (bias) std::memcpy(biases, bias + start, count * sizeof(float));
      lay_out(codes + start * in, in, count, panel.data());
      for (int64_t r = from; r < end; r += TILE) {
        const int64_t tokens = std::min(TILE, end - r);
        sums_of_few(tokens, q.data() + r * width, width, panel.data(), sums);
        for (int64_t t = 0; t < tokens; ++t) {
          for (int64_t l = 0; l < PANEL; ++l) done[l] = rescaled(sums[t][l], scales[l], steps[r + t], biases[l]);
          std::memcpy(y + (r + t) * out + start, done, count * sizeof(float));
        }
      }
    }
  });
}
#endif

at::Tensor int8_linear(
    const at::Tensor& x_, const at::Tensor& codes_, const at::Tensor& scale_, const std::optional<at::Tensor>& bias_) {
  const at::Tensor x = x_.to(at::kFloat).contiguous(), codes = codes_.contiguous(), scale = scale_.contiguous();
  std::optional<at::Tensor> bias;
  if (bias_) bias = bias_->to(at::kFloat).contiguous();
  const int64_t in = codes.size(1), out = codes.size(0), rows = x.numel() / in;
  TORCH_CHECK(x.dim() > 0 && x.size(-1) == in, "int8_linear: x is not (..., ", in, ")");
  TORCH_CHECK(codes.scalar_type() == at::kChar && scale.scalar_type() == at::kFloat, "int8_linear: wrong dtypes");
  TORCH_CHECK(scale.numel() == out && (!bias || bias->numel() == out), "int8_linear: wrong sizes");
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = out;
  at::Tensor y = at::empty(sizes, x.options());
  if (y.numel() == 0) return y.to(x_.scalar_type());
  const float *px = x.const_data_ptr<float>(), *ps = scale.const_data_ptr<float>();
  const float* pb = bias ? bias->const_data_ptr<float>() : nullptr;
  float* py = y.mutable_data_ptr<float>();
  if (rows == 1) {
    product(Int8Rows(codes, scale), px, bias, nullptr, py);
    return y.to(x_.scalar_type());
  }
#ifdef LAYERSMITH_OWN_PRODUCT
  const auto some_rows = rows < FEW ? few_rows : many_rows;
  some_rows(px, codes.const_data_ptr<int8_t>(), ps, pb, rows, in, out, py);
#else
  at::Tensor q = at::empty({rows, in}, x.options().dtype(at::kChar));
  at::Tensor steps = at::empty({rows}, x.options());
  int8_t* pq = q.mutable_data_ptr<int8_t>();
  float* pstep = steps.mutable_data_ptr<float>();

  at::parallel_for(0, rows, std::max<int64_t>(1, BLOCK / std::max<int64_t>(1, in)), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) pstep[r] = rounded(px + r * in, pq + r * in, in);
  });
  at::Tensor whole = y.view({rows, out}).view(at::kInt);
  at::_int_mm_out(whole, q, codes.t());
  at::parallel_for(0, rows, std::max<int64_t>(1, BLOCK / out), [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) rescale_row(py + r * out, ps, pb, out, pstep[r]);
  });
#endif
  return y.to(x_.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("int8_linear", int8_linear);
}

}  // namespace layersmith
