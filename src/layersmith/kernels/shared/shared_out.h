// The rows of a matrix shared out among the threads, for the product with a single token.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

namespace layersmith {

// A thread is woken for no less than this many bytes of weights: about what one reads while another wakes up.
constexpr int64_t WORTH_A_THREAD = 1 << 16;

// run(row) for every row of a matrix with that many bytes a row. Which thread has which row changes no number.
template <typename Run>
void each_row(int64_t rows, int64_t row_bytes, Run run) {
  const int64_t few = std::max<int64_t>(1, WORTH_A_THREAD / std::max<int64_t>(1, row_bytes));
  at::parallel_for(0, rows, few, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) run(row);
  });
}

}  // namespace layersmith
