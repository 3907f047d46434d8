// Few tokens, few of the weights' rows each: what is not chosen is not read.
//
//   chosen_rows     y[n] = sum_k h[n, k] (U[i] . x[n]) V[i],  i = chosen[n, k]; without U the bracket is 1
//   grouped_linear  one matrix per expert over rows sorted by expert, for experts that have few rows
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <optional>
#include <vector>

#include "lanes.h"

namespace layersmith {
namespace {

// Rows handled by one thread in a row. A fixed number, and what the runs give is added in their order, so that the
// result does not depend on the number of threads.
constexpr int64_t RUN = 32;

// R rows are read side by side: as many streams from memory, which carry half as much again as one.
template <int R>
void dots(const float* const* row, const float* x, int64_t width, float* out) {
  Lanes sums[R] = {};
  by_lanes(width, [&](int64_t i, int64_t n) {
    const Lanes v = n == LANES ? load(x + i) : load(x + i, n);
    for (int r = 0; r < R; ++r) sums[r] += v * (n == LANES ? load(row[r] + i) : load(row[r] + i, n));
  });
  for (int r = 0; r < R; ++r) out[r] = sum(sums[r]);
}

template <int R>
void add_rows(const float* const* row, const float* factor, int64_t width, float* y) {
  by_lanes(width, [&](int64_t i, int64_t n) {
    Lanes v = n == LANES ? load(y + i) : load(y + i, n);
    for (int r = 0; r < R; ++r) v += factor[r] * (n == LANES ? load(row[r] + i) : load(row[r] + i, n));
    store(y + i, v, n);
  });
}

template <int R>
void chosen_few(
    const float* x, const float* hidden, const int64_t* chosen, const float* up, const float* down, int64_t width,
    float* y) {
  const float* row[R];
  float factor[R];
  if (up) {
    for (int r = 0; r < R; ++r) row[r] = up + chosen[r] * width;
    dots<R>(row, x, width, factor);
    for (int r = 0; r < R; ++r) factor[r] *= hidden[r];
  } else {
    std::copy(hidden, hidden + R, factor);
  }
  for (int r = 0; r < R; ++r) row[r] = down + chosen[r] * width;
  add_rows<R>(row, factor, width, y);
}

void chosen_run(
    const float* x, const float* hidden, const int64_t* chosen, int64_t count, const float* up, const float* down,
    int64_t width, float* y) {
  std::fill(y, y + width, 0.0f);
  int64_t k = 0;
  for (; k + 4 <= count; k += 4) chosen_few<4>(x, hidden + k, chosen + k, up, down, width, y);
  for (; k < count; ++k) chosen_few<1>(x, hidden + k, chosen + k, up, down, width, y);
}

at::Tensor chosen_rows(
    const at::Tensor& x_, const at::Tensor& hidden_, const at::Tensor& chosen_, const std::optional<at::Tensor>& up,
    const at::Tensor& down) {
  const at::Tensor x = x_.contiguous(), hidden = hidden_.contiguous(), chosen = chosen_.contiguous();
  const int64_t tokens = chosen.size(0), k = chosen.size(1), width = down.size(1), rows = down.size(0);
  TORCH_CHECK(!up || (up->size(0) == rows && up->size(1) == width), "chosen_rows: the two tables differ in shape");
  const int64_t* pc = chosen.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < tokens * k; ++i) {
    TORCH_CHECK(pc[i] >= 0 && pc[i] < rows, "chosen_rows: row ", pc[i], " of a table of ", rows);
  }
  at::Tensor y = at::empty({tokens, width}, hidden.options());
  const float *px = x.const_data_ptr<float>(), *ph = hidden.const_data_ptr<float>();
  const float *pd = down.const_data_ptr<float>(), *pu = up ? up->const_data_ptr<float>() : nullptr;
  float* py = y.mutable_data_ptr<float>();
  const int64_t runs = (k + RUN - 1) / RUN;
  std::vector<float> partial(tokens * runs * width);
  at::parallel_for(0, tokens * runs, 1, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const int64_t token = r / runs, from = r % runs * RUN, at = token * k + from;
      chosen_run(px + token * width, ph + at, pc + at, std::min(RUN, k - from), pu, pd, width, &partial[r * width]);
    }
  });
  for (int64_t token = 0; token < tokens; ++token) {
    float* to = py + token * width;
    std::fill(to, to + width, 0.0f);
    for (int64_t r = token * runs; r < (token + 1) * runs; ++r) {
      for (int64_t i = 0; i < width; ++i) to[i] += partial[r * width + i];
    }
  }
  return y;
}

// Up to this many rows of an expert are multiplied one by one; a matrix product pays for itself above.
constexpr int64_t FEW = 2;

at::Tensor grouped_linear(const at::Tensor& rows_, const at::Tensor& weight, const at::Tensor& counts_) {
  const at::Tensor rows = rows_.contiguous(), counts = counts_.contiguous();
  const int64_t experts = weight.size(0), d_out = weight.size(1), d_in = weight.size(2);
  const int64_t* pc = counts.const_data_ptr<int64_t>();
  int64_t total = 0;
  for (int64_t e = 0; e < experts; ++e) total += pc[e];
  TORCH_CHECK(counts.numel() == experts && total == rows.size(0), "grouped_linear: the counts do not add up to the rows");
  at::Tensor out = at::empty({rows.size(0), d_out}, rows.options());
  const float *pr = rows.const_data_ptr<float>(), *pw = weight.const_data_ptr<float>();
  float* po = out.mutable_data_ptr<float>();
  std::vector<std::pair<int64_t, int64_t>> single;  // (row, expert)
  int64_t start = 0;
  for (int64_t e = 0; e < experts; start += pc[e++]) {
    if (pc[e] > FEW) {
      at::Tensor to = out.narrow(0, start, pc[e]);
      at::mm_out(to, rows.narrow(0, start, pc[e]), weight.select(0, e).t());
    } else {
      for (int64_t r = start; r < start + pc[e]; ++r) single.emplace_back(r, e);
    }
  }
  const int64_t grain = std::max<int64_t>(1, BLOCK / std::max<int64_t>(1, d_in));
  at::parallel_for(0, static_cast<int64_t>(single.size()) * d_out, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const auto [row, expert] = single[i / d_out];
      po[row * d_out + i % d_out] = dot(pw + (expert * d_out + i % d_out) * d_in, pr + row * d_in, d_in);
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("chosen_rows", chosen_rows);
  m.impl("grouped_linear_cpu", grouped_linear);
}

}  // namespace layersmith
