// y = W x + b for one token and W on a grid of packed integers; and W itself. See __init__.py.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <vector>

#include "halves.h"
#include "shared_out.h"
#include "wide.h"

namespace layersmith {
namespace {

struct Grid {
  const uint8_t* codes;
  const uint16_t *scale, *zero;
  int64_t out, in, groups, group, row_bytes;

  Grid(const at::Tensor& packed, const at::Tensor& scale_, const at::Tensor& zero_, int64_t bits) {
    out = packed.size(0), row_bytes = packed.size(1), groups = scale_.size(1);
    in = row_bytes * 8 / bits, group = in / groups;
    TORCH_CHECK(bits == 8 || bits == 4, "packed: codes of 8 or 4 bits");
    TORCH_CHECK(group * groups == in && group % (bits == 8 ? WIDE : 2 * WIDE) == 0, "packed: groups of ", group);
    codes = packed.const_data_ptr<uint8_t>();
    scale = reinterpret_cast<const uint16_t*>(scale_.const_data_ptr<int16_t>());
    zero = reinterpret_cast<const uint16_t*>(zero_.const_data_ptr<int16_t>());
  }
};

at::Tensor packed_row(
    const at::Tensor& x,
    const at::Tensor& packed,
    const at::Tensor& scale,
    const at::Tensor& zero,
    const std::optional<at::Tensor>& bias,
    int64_t bits) {
  const Grid grid(packed, scale, zero, bits);
  TORCH_CHECK(x.numel() == grid.in && x.size(-1) == grid.in, "packed_row: x is not one row of ", grid.in);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = grid.out;
  at::Tensor y = at::empty(sizes, x.options());
  const float* px = x.const_data_ptr<float>();
  const float* pb = bias.has_value() ? bias->const_data_ptr<float>() : nullptr;
  float* py = y.mutable_data_ptr<float>();
  std::vector<float> apart(bits == 4 ? grid.in : 0);
  if (bits == 4) halves_apart(px, apart.data(), grid.in);
  each_row(grid.out, grid.row_bytes, [&](int64_t row) {
    const uint8_t* codes = grid.codes + row * grid.row_bytes;
    const uint16_t *s = grid.scale + row * grid.groups, *z = grid.zero + row * grid.groups;
    const float product = bits == 8 ? dot_bytes(codes, s, z, px, grid.in, grid.group)
                                    : dot_halves(codes, s, z, apart.data(), grid.in, grid.group);
    py[row] = product + (pb ? pb[row] : 0.0f);
  });
  return y;
}

at::Tensor packed_row_int8(
    const at::Tensor& x,
    const at::Tensor& packed,
    const at::Tensor& scale,
    const at::Tensor& zero,
    const std::optional<at::Tensor>& bias) {
  const Grid grid(packed, scale, zero, 4);
  TORCH_CHECK(x.numel() == grid.in && x.size(-1) == grid.in, "packed_row_int8: x is not one row of ", grid.in);
  TORCH_CHECK(grid.group % 32 == 0, "packed_row_int8: groups of ", grid.group);
  std::vector<int64_t> sizes = x.sizes().vec();
  sizes.back() = grid.out;
  at::Tensor y = at::empty(sizes, x.options());
  const float* pb = bias.has_value() ? bias->const_data_ptr<float>() : nullptr;
  float* py = y.mutable_data_ptr<float>();
  std::vector<int8_t> q(grid.in);
  std::vector<float> step(grid.groups), sum(grid.groups);
  round_groups(x.const_data_ptr<float>(), grid.in, grid.group, q.data(), step.data(), sum.data());
  each_row(grid.out, grid.row_bytes, [&](int64_t row) {
    const float product = dot_halves_int8(
        grid.codes + row * grid.row_bytes, grid.scale + row * grid.groups, grid.zero + row * grid.groups, q.data(),
        step.data(), sum.data(), grid.in, grid.group);
    py[row] = product + (pb ? pb[row] : 0.0f);
  });
  return y;
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
