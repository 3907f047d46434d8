// Eight floats at a time, and sums that come out the same for every number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace layersmith {

// GCC's and Clang's own vectors: one AVX register where there is one, two NEON registers, or whatever the target has.
typedef float Lanes __attribute__((vector_size(32)));
constexpr int64_t LANES = 8;

// Work is cut into blocks of about this many elements whatever the number of threads, and what a reduction adds is
// added block by block, so results do not depend on that number. Three arrays of a block fit a core's own cache.
constexpr int64_t BLOCK = 16384;

inline Lanes load(const float* from) {
  Lanes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline Lanes load(const float* from, int64_t count) {
  Lanes v = {};
  std::memcpy(&v, from, count * sizeof(float));
  return v;
}

inline Lanes take(const float* from, int64_t i, int64_t count) {
  return count == LANES ? load(from + i) : load(from + i, count);
}

inline void store(float* to, Lanes v, int64_t count = LANES) {
  std::memcpy(to, &v, count * sizeof(float));
}

inline Lanes broadcast(float value) {
  return value - Lanes{};  // nothing taken off is no operation; nothing added is one, which turns -0 into 0
}

inline float sum(Lanes v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// step(i, count) for every run of at most eight elements; count is the constant 8 except for the last run.
template <typename Step>
inline void by_lanes(int64_t size, Step step) {
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) step(i, LANES);
  if (i < size) step(i, size - i);
}

// The product of two vectors, in four sums so that additions do not wait for one another.
inline float dot(const float* a, const float* b, int64_t size) {
  Lanes sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= size; i += 4 * LANES) {
    for (int64_t l = 0; l < 4; ++l) sums[l] += load(a + i + l * LANES) * load(b + i + l * LANES);
  }
  for (; i < size; i += LANES) {
    const int64_t count = std::min(LANES, size - i);
    sums[0] += load(a + i, count) * load(b + i, count);
  }
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace layersmith
