// One shared matrix, read once, under several masks of one bit for each element.
//
//   masked_products   total[n, j] = sum_d W[j, d] x[n, d],   part[n, i, j] = the same sum over the d with M[i, j, d] = 1
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "lanes.h"

namespace layersmith {
namespace {

// Eight bits of a mask as eight factors 0 or 1, for each value of a byte.
const std::array<Lanes, 256> FACTORS = [] {
  std::array<Lanes, 256> made;
  for (int byte = 0; byte < 256; ++byte)
    for (int bit = 0; bit < LANES; ++bit) made[byte][bit] = static_cast<float>(byte >> bit & 1);
  return made;
}();

// M masks at a time: row and x are loaded once for all of them. sums[0] is the whole product.
template <int M>
void products(const float* row, const float* x, const uint8_t* const* bits, int64_t width, float* sums) {
  Lanes whole = {}, parts[M] = {};
  by_lanes(width, [&](int64_t i, int64_t n) {
    const Lanes p = n == LANES ? load(row + i) * load(x + i) : load(row + i, n) * load(x + i, n);
    whole += p;
    for (int m = 0; m < M; ++m) parts[m] += FACTORS[bits[m][i / LANES]] * p;
  });
  sums[0] = sum(whole);
  for (int m = 0; m < M; ++m) sums[m + 1] = sum(parts[m]);
}

std::tuple<at::Tensor, at::Tensor> masked_products(
    const at::Tensor& x_, const at::Tensor& weight, const at::Tensor& masks_) {
  const at::Tensor x = x_.contiguous(), masks = masks_.contiguous();
  const int64_t tokens = x.size(0), width = weight.size(1), rows = weight.size(0);
  const int64_t n_masks = masks.size(0), bytes = (width + LANES - 1) / LANES;
  TORCH_CHECK(x.size(1) == width && masks.size(1) == rows && masks.size(2) == bytes, "masked_products: shapes differ");
  at::Tensor total = at::empty({tokens, rows}, x.options()), part = at::empty({tokens, n_masks, rows}, x.options());
  const float *px = x.const_data_ptr<float>(), *pw = weight.const_data_ptr<float>();
  const uint8_t* pm = masks.const_data_ptr<uint8_t>();
  float *pt = total.mutable_data_ptr<float>(), *pp = part.mutable_data_ptr<float>();
  const int64_t grain = std::max<int64_t>(1, BLOCK / width);
  at::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t j = first; j < last; ++j) {
      for (int64_t n = 0; n < tokens; ++n) {
        const float *row = pw + j * width, *token = px + n * width;
        const uint8_t* bits[2];
        float sums[3];
        int64_t m = 0;
        for (; m < n_masks; m += 2) {
          const int64_t now = std::min<int64_t>(2, n_masks - m);
          for (int64_t i = 0; i < now; ++i) bits[i] = pm + ((m + i) * rows + j) * bytes;
          now == 2 ? products<2>(row, token, bits, width, sums) : products<1>(row, token, bits, width, sums);
          for (int64_t i = 0; i < now; ++i) pp[(n * n_masks + m + i) * rows + j] = sums[i + 1];
        }
        pt[n * rows + j] = sums[0];
      }
    }
  });
  return {total, part};
}

}  // namespace

TORCH_LIBRARY_IMPL(layersmith, CPU, m) {
  m.impl("masked_products", masked_products);
}
}  // namespace layersmith
