// The loops that kernels share. Work is always cut by its size and never by the number of threads, so that every sum
// is taken in one order.
#pragma once

#include <cstdint>

#include "cpu/ops/vec.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

// With fewer elements than this, waking the other threads costs more than they save.
constexpr int64_t kParallelElements = 16384;

// Calls f(begin, end) for the consecutive blocks of [0, n), in parallel when n is large.
template <class F>
inline void for_each_block(int64_t n, int64_t block, F&& f) {
  const int64_t blocks = (n + block - 1) / block;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t b = 0; b < blocks; ++b) f(b * block, b + 1 < blocks ? (b + 1) * block : n);
}

// The sum of the vectors f(offset, count) of a row of n numbers (as for_each_vec in vec.h), on four accumulators: one
// alone would wait for each addition to end.
template <class F>
inline float sum_each_vec(int64_t n, F&& f) {
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) sums[j] += f(i + j * kLanes, kLanes);
  }
  for (; i + kLanes <= n; i += kLanes) sums[0] += f(i, kLanes);
  if (i < n) sums[1] += f(i, static_cast<int>(n - i));
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
