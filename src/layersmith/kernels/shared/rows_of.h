// One token times a matrix, y_i = W_i x + b_i, for every form in which a matrix is stored. What a form does to x is done
// once, when it is made; afterwards any thread may ask for any row.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <optional>
#include <vector>

#include "halves.h"
#include "rounded.h"
#include "shared_out.h"
#include "wide.h"

namespace layersmith {

// Floats, (out, in).
struct FloatRows {
  at::Tensor weight;
  int64_t out, in, row_bytes;
  const float *from, *x;

  explicit FloatRows(const at::Tensor& weight_) : weight(weight_.contiguous()) {
    out = weight.size(0), in = weight.size(1), row_bytes = in * sizeof(float);
    from = weight.const_data_ptr<float>();
  }
  void take(const float* x_) { x = x_; }
  float operator()(int64_t row, float bias) const { return dot_wide(from + row * in, x, in) + bias; }
};

// Codes of 8 or 4 bits with a scale and a zero for every group of inputs.
struct Grid {
  at::Tensor packed, scales, zeros;
  const uint8_t* codes;
  const uint16_t *scale, *zero;
  int64_t out, in, groups, group, row_bytes;

  Grid(const at::Tensor& packed_, const at::Tensor& scale_, const at::Tensor& zero_, int64_t bits)
      : packed(packed_.contiguous()), scales(scale_.contiguous()), zeros(zero_.contiguous()) {
    out = packed.size(0), row_bytes = packed.size(1), groups = scales.size(1);
    in = row_bytes * 8 / bits, group = in / groups;
    TORCH_CHECK(bits == 8 || bits == 4, "packed: codes of 8 or 4 bits");
    TORCH_CHECK(group * groups == in && group % (bits == 8 ? WIDE : 2 * WIDE) == 0, "packed: groups of ", group);
    codes = packed.const_data_ptr<uint8_t>();
    scale = reinterpret_cast<const uint16_t*>(scales.const_data_ptr<int16_t>());
    zero = reinterpret_cast<const uint16_t*>(zeros.const_data_ptr<int16_t>());
  }
};

// Such codes of 8 bits.
struct ByteRows : Grid {
  const float* x;

  ByteRows(const at::Tensor& packed_, const at::Tensor& scale_, const at::Tensor& zero_)
      : Grid(packed_, scale_, zero_, 8) {}
  void take(const float* x_) { x = x_; }
  float operator()(int64_t row, float bias) const {
    return dot_bytes(codes + row * row_bytes, scale + row * groups, zero + row * groups, x, in, group) + bias;
  }
};

// Such codes of 4 bits.
struct HalfRows : Grid {
  std::vector<float> apart;

  HalfRows(const at::Tensor& packed_, const at::Tensor& scale_, const at::Tensor& zero_)
      : Grid(packed_, scale_, zero_, 4), apart(in) {}
  void take(const float* x) { halves_apart(x, apart.data(), in); }
  float operator()(int64_t row, float bias) const {
    const uint8_t* own = codes + row * row_bytes;
    return dot_halves(own, scale + row * groups, zero + row * groups, apart.data(), in, group) + bias;
  }
};

// Such codes of 4 bits, times x rounded to int8 group by group.
struct HalfRowsInt8 : Grid {
  std::vector<int8_t> q;
  std::vector<float> step, sum;

  HalfRowsInt8(const at::Tensor& packed_, const at::Tensor& scale_, const at::Tensor& zero_)
      : Grid(packed_, scale_, zero_, 4), q(in), step(groups), sum(groups) {
    TORCH_CHECK(group % 32 == 0, "packed_row_int8: groups of ", group);
  }
  void take(const float* x) { round_groups(x, in, group, q.data(), step.data(), sum.data()); }
  float operator()(int64_t row, float bias) const {
    const uint8_t* own = codes + row * row_bytes;
    const uint16_t *s = scale + row * groups, *z = zero + row * groups;
    return dot_halves_int8(own, s, z, q.data(), step.data(), sum.data(), in, group) + bias;
  }
};

// int8 with a scale for every row, times x rounded to int8.
struct Int8Rows {
  at::Tensor weight, scales;
  int64_t out, in, row_bytes;
  const int8_t* codes;
  const float* scale;
  std::vector<int8_t> q;
  float step = 0.0f;

  Int8Rows(const at::Tensor& codes_, const at::Tensor& scale_)
      : weight(codes_.contiguous()), scales(scale_.contiguous()) {
    out = weight.size(0), in = weight.size(1), row_bytes = in;
    TORCH_CHECK(scales.numel() == out, "int8: a scale for every row");
    codes = weight.const_data_ptr<int8_t>(), scale = scales.const_data_ptr<float>();
    q.resize(in);
  }
  void take(const float* x) { step = rounded(x, q.data(), in); }
  float operator()(int64_t row, float bias) const {
    return rescaled(dot_int8(codes + row * in, q.data(), in), scale[row], step, bias);
  }
};

// y = W x + b, and with `onto` y = onto + W x + b. The rows are shared out among the threads.
template <typename Rows>
void product(Rows&& rows, const float* x, const std::optional<at::Tensor>& bias, const float* onto, float* y) {
  TORCH_CHECK(!bias || bias->numel() == rows.out, "the bias is not ", rows.out, " numbers");
  const float* pb = bias ? bias->const_data_ptr<float>() : nullptr;
  rows.take(x);
  each_row(rows.out, rows.row_bytes, [&](int64_t row) {
    const float found = rows(row, pb ? pb[row] : 0.0f);
    y[row] = onto ? onto[row] + found : found;
  });
}

// The same as a tensor, for one row x (..., in) -> (..., out).
template <typename Rows>
at::Tensor product_of(Rows&& rows, const at::Tensor& x, const std::optional<at::Tensor>& bias) {
  TORCH_CHECK(x.numel() == rows.in && x.size(-1) == rows.in, "x is not one row of ", rows.in);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = rows.out;
  at::Tensor y = at::empty(sizes, x.options());
  product(rows, x.const_data_ptr<float>(), bias, nullptr, y.mutable_data_ptr<float>());
  return y;
}

}  // namespace layersmith
