// Work over the rows of a (..., channels) tensor, in blocks that do not depend on the number of threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "lanes.h"

namespace layersmith {

struct Rows {
  int64_t rows, channels, per_block, blocks;

  explicit Rows(const at::Tensor& x) {
    channels = x.size(-1);
    rows = channels ? x.numel() / channels : 0;
    per_block = std::max<int64_t>(1, BLOCK / std::max<int64_t>(1, channels));
    blocks = (rows + per_block - 1) / per_block;
  }

  // run(row, block) for every row, the blocks in parallel.
  template <typename Run>
  void each(Run run) const {
    at::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t end = std::min((block + 1) * per_block, rows);
        for (int64_t row = block * per_block; row < end; ++row) run(row, block);
      }
    });
  }
};

}  // namespace layersmith
