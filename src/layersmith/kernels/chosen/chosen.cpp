// Few tokens, few of the weights' rows each: what is not chosen is not read.
//
//   chosen_rows     y[n] = sum_k h[n, k] (U[i] . x[n]) V[i],  i = chosen[n, k]; without U the bracket is 1
//   grouped_linear  one matrix per expert over rows sorted by expert; of an expert with few rows the matrix is read once
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

// Up to this many rows of an expert are multiplied here; a library's matrix product pays for itself above.
constexpr int64_t MANY = 32;
// Weight rows that are read side by side, and rows of the input that share them: as many sums as fit the registers.
constexpr int OUT = 4, IN = 2;

// out[t, r] = x[t] . w[r] for T rows of the input and R rows of the weight, each sum in one fixed order.
template <int T, int R>
void dots_of(const float* x, const float* w, int64_t d_in, float* out, int64_t d_out) {
  Lanes sums[T][R] = {};
  by_lanes(d_in, [&](int64_t i, int64_t n) {
    Lanes v[T];
    for (int t = 0; t < T; ++t) v[t] = n == LANES ? load(x + t * d_in + i) : load(x + t * d_in + i, n);
    for (int r = 0; r < R; ++r) {
      const Lanes u = n == LANES ? load(w + r * d_in + i) : load(w + r * d_in + i, n);
      for (int t = 0; t < T; ++t) sums[t][r] += v[t] * u;
    }
  });
  for (int t = 0; t < T; ++t) {
    for (int r = 0; r < R; ++r) out[t * d_out + r] = sum(sums[t][r]);
  }
}

// R rows of one expert's weight on all its rows of the input: the weight comes from memory once.
template <int R>
void tile(const float* x, const float* w, int64_t rows, int64_t d_in, float* out, int64_t d_out) {
  int64_t t = 0;
  for (; t + IN <= rows; t += IN) dots_of<IN, R>(x + t * d_in, w, d_in, out + t * d_out, d_out);
  for (; t < rows; ++t) dots_of<1, R>(x + t * d_in, w, d_in, out + t * d_out, d_out);
}

struct Piece {
  int64_t expert, start, rows, first;  // of the input: start and rows; of the weight: from `first` on
};

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
  std::vector<Piece> pieces;
  int64_t start = 0;
  for (int64_t e = 0; e < experts; start += pc[e++]) {
    if (pc[e] > MANY) {
      at::Tensor to = out.narrow(0, start, pc[e]);
      at::mm_out(to, rows.narrow(0, start, pc[e]), weight.select(0, e).t());
    } else if (pc[e] > 0) {
      for (int64_t first = 0; first < d_out; first += OUT) pieces.push_back({e, start, pc[e], first});
    }
  }
  const int64_t grain = std::max<int64_t>(1, BLOCK / std::max<int64_t>(1, OUT * d_in));
  at::parallel_for(0, static_cast<int64_t>(pieces.size()), grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const Piece& p = pieces[i];
      const float *x = pr + p.start * d_in, *w = pw + (p.expert * d_out + p.first) * d_in;
      float* to = po + p.start * d_out + p.first;
      if (p.first + OUT <= d_out) {
        tile<OUT>(x, w, p.rows, d_in, to, d_out);
      } else {
        for (int64_t r = 0; p.first + r < d_out; ++r) tile<1>(x, w + r * d_in, p.rows, d_in, to + r, d_out);
      }
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
