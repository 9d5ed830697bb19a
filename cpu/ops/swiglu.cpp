// The gated activation of the feed-forward network, elementwise: limited by memory bandwidth, except for the
// exponential.
#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

constexpr int64_t kColumns = 2048;  // per piece of a row, so that even one token's row is divided among threads

inline Vec sigmoid(Vec x) { return 1.0f / (1.0f + exp(-x)); }

// Calls f(row, begin, count) for each piece of each row.
template <class F>
inline void for_each_piece(int64_t rows, int64_t columns, F&& f) {
  const int64_t pieces = (columns + kColumns - 1) / kColumns;
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements / 4)
  for (int64_t i = 0; i < rows * pieces; ++i) {
    const int64_t begin = i % pieces * kColumns;
    f(i / pieces, begin, columns - begin < kColumns ? columns - begin : kColumns);
  }
}

}  // namespace

void swiglu_forward(const SwigluForward& args) {
  const int64_t tokens = args.h.shape[0], size = args.h.shape[1];
  dispatch(args.h.dtype, [&]<class T>() {
    for_each_piece(tokens, size, [&](int64_t t, int64_t begin, int64_t n) {
      const T *gate = args.gate_up.data<T>() + t * 2 * size + begin, *up = gate + size;
      T* h = args.h.data<T>() + t * size + begin;
      for_each_vec(n, [&](int64_t i, int count) {
        const Vec g = load(gate + i, count);
        store(h + i, g * sigmoid(g) * load(up + i, count), count);
      });
    });
  });
}

// With s = sigmoid(gate): d silu(gate) / d gate = s + gate · s · (1 − s).
void swiglu_backward(const SwigluBackward& args) {
  const int64_t tokens = args.dh.shape[0], size = args.dh.shape[1];
  dispatch(args.dh.dtype, [&]<class T>() {
    for_each_piece(tokens, size, [&](int64_t t, int64_t begin, int64_t n) {
      T *gate = args.gate_up.data<T>() + t * 2 * size + begin, *up = gate + size;
      const T* dh = args.dh.data<T>() + t * size + begin;
      for_each_vec(n, [&](int64_t i, int count) {
        const Vec g = load(gate + i, count), u = load(up + i, count), d = load(dh + i, count), s = sigmoid(g);
        const Vec silu = g * s;
        store(gate + i, d * u * (s + silu * (1.0f - s)), count);
        store(up + i, d * silu, count);
      });
    });
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
