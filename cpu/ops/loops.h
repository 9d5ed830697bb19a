// Loops that kernels share. Work is always divided by its size and never by the number of threads, so that every sum
// has a fixed order.
#pragma once

#include <cstdint>

#include "cpu/ops/vec.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

// Below this number of elements, waking the other threads costs more than it saves.
constexpr int64_t kParallelElements = 16384;

// Calls f(begin, end) for consecutive blocks of [0, n), in parallel if n is large.
template <class F>
inline void for_each_block(int64_t n, int64_t block, F&& f) {
  const int64_t blocks = (n + block - 1) / block;
#pragma omp parallel for schedule(static) if (n > kParallelElements)
  for (int64_t b = 0; b < blocks; ++b) f(b * block, b + 1 < blocks ? (b + 1) * block : n);
}

// The sum of the vectors f(offset, count) over a row of n elements (as for_each_vec in vec.h), in four accumulators to
// hide the latency of the additions.
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
