// The product of a linear layer with few input rows, as in decoding: c = alpha · a · bᵀ + beta · c for a [m, k], m ≤ 8,
// and weights b [n, k]. It is limited by reading the weights, each once. One thread computes an element of c from start
// to end, in an order that depends neither on m nor on the number of threads: a sequence decodes to the same bits alone
// and in a batch.
#pragma once

#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

constexpr int64_t kMaxMatVecRows = 8;

// A dot product in steps of kStep elements; `Input` is the type that the rows of a are converted to beforehand.
template <class W>
struct Dot {
  using Input = float;
  static constexpr int kStep = kLanes;
  static Vec add(Vec total, const W* w, const float* x, int count) { return total + load(w, count) * load(x, count); }
};

#ifdef __AVX512BF16__
template <>
struct Dot<bf16> {
  using Input = bf16;
  static constexpr int kStep = 2 * kLanes;
  static __m512bh pairs(const bf16* p, int count) {
    return count == kStep ? (__m512bh)_mm512_loadu_si512(p) : (__m512bh)_mm512_maskz_loadu_epi16((1u << count) - 1, p);
  }
  static Vec add(Vec total, const bf16* w, const bf16* x, int count) {
    return _mm512_dpbf16_ps(total, pairs(w, count), pairs(x, count));
  }
};
#endif

// sums[j] = w · x[j]. One row of weights at a time and no prefetch instructions: the weights are then a single stream
// of addresses, which the hardware prefetchers follow at full memory speed. (Four rows in parallel, with and without
// prefetching, reached two thirds of it with rows of 1.5 KB.)
template <int M, class W, class Input>
inline void dot_row(float (&sums)[M], const Input* x, const W* w, int64_t k) {
  constexpr int kStep = Dot<W>::kStep;
  Vec totals[M] = {};
  const auto step = [&](int64_t i, int count) {
    for (int j = 0; j < M; ++j) totals[j] = Dot<W>::add(totals[j], w + i, x + j * k + i, count);
  };
  int64_t i = 0;
  for (; i + kStep <= k; i += kStep) step(i, kStep);
  if (i < k) step(i, static_cast<int>(k - i));
  for (int j = 0; j < M; ++j) sums[j] = sum(totals[j]);
}

template <int M, class C, class W, class Input>
void matvec_rows(C* c, const Input* x, const W* weights, int64_t n, int64_t k, float alpha, float beta) {
#pragma omp parallel for schedule(static) if (n * k > 4 * kParallelElements)
  for (int64_t column = 0; column < n; ++column) {
    float sums[M];
    dot_row<M>(sums, x, weights + column * k, k);
    for (int j = 0; j < M; ++j) {
      C& out = c[j * n + column];
      from_float(beta == 0 ? alpha * sums[j] : alpha * sums[j] + beta * to_float(out), out);
    }
  }
}

// c [m, n], x [m, k], weights [n, k].
template <class C, class W, class Input>
void matvec(C* c, const Input* x, const W* weights, int64_t m, int64_t n, int64_t k, float alpha, float beta) {
  switch (m) {
    case 1:
      return matvec_rows<1>(c, x, weights, n, k, alpha, beta);
    case 2:
      return matvec_rows<2>(c, x, weights, n, k, alpha, beta);
    case 3:
      return matvec_rows<3>(c, x, weights, n, k, alpha, beta);
    case 4:
      return matvec_rows<4>(c, x, weights, n, k, alpha, beta);
    case 5:
      return matvec_rows<5>(c, x, weights, n, k, alpha, beta);
    case 6:
      return matvec_rows<6>(c, x, weights, n, k, alpha, beta);
    case 7:
      return matvec_rows<7>(c, x, weights, n, k, alpha, beta);
    case 8:
      return matvec_rows<8>(c, x, weights, n, k, alpha, beta);
  }
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
