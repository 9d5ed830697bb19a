// The gated activation of the feed-forward network, elementwise: limited by memory bandwidth. A thread processes the
// same 16 bytes of columns from the gates and the ups.
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

// The fast division is accurate to two units in the last place. __expf would not do: its error grows with |x|.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }

// Reads gate and up, writes h: 6 bytes per h in bfloat16.
template <class T, int N>
__global__ void swiglu_kernel(Global<T> h, Global<const T> gate_up, int columns) {
  const int column = my_column<N>();
  if (column >= columns) return;
  const int64_t row = blockIdx.x, gate_at = row * 2 * columns + column;
  const Vec<T, N> gates = load<N>(gate_up + gate_at), ups = load<N>(gate_up + (gate_at + columns));
  const Vec<float, N> g = to_floats(gates), u = to_floats(ups);
  Vec<float, N> product;
#pragma unroll
  for (int k = 0; k < N; ++k) product[k] = g[k] * sigmoid(g[k]) * u[k];
  store<N>(h + (row * columns + column), from_floats<T>(product));
}

// Reads gate, up, and dh, writes the two gradients in place: 10 bytes per dh in bfloat16. With s = sigmoid(gate): d
// silu(gate) / d gate = s + gate · s · (1 − s).
template <class T, int N>
__global__ void swiglu_backward_kernel(Global<T> gate_up, Global<const T> dh, int columns) {
  const int column = my_column<N>();
  if (column >= columns) return;
  const int64_t row = blockIdx.x, gate_at = row * 2 * columns + column;
  const Vec<T, N> gates = load<N>(gate_up + gate_at), ups = load<N>(gate_up + (gate_at + columns));
  const Vec<float, N> d = to_floats(load<N>(dh + (row * columns + column)));
  Vec<float, N> g = to_floats(gates), u = to_floats(ups);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float s = sigmoid(g[k]), silu = g[k] * s;
    g[k] = d[k] * u[k] * fmaf(silu, 1.0f - s, s);
    u[k] = d[k] * silu;
  }
  store<N>(gate_up + gate_at, from_floats<T>(g));
  store<N>(gate_up + (gate_at + columns), from_floats<T>(u));
}

}  // namespace

void swiglu_forward(const SwigluForward& args, const Launcher& on) {
  const int64_t tokens = args.h.shape[0], columns = args.h.shape[1];
  if (args.h.numel() == 0) return;
  with_float(args.h.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_width<kVector<T>>(aligned(kVector<T>, columns, {args.h, args.gate_up}), [&](auto width) {
      const auto [grid, block] = row_grid(tokens, columns, width());
      launch(on, swiglu_kernel<T, width()>, grid, block, 0, global<T>(args.h), global<const T>(args.gate_up),
             static_cast<int>(columns));
    });
  });
}

void swiglu_backward(const SwigluBackward& args, const Launcher& on) {
  const int64_t tokens = args.dh.shape[0], columns = args.dh.shape[1];
  if (args.dh.numel() == 0) return;
  with_float(args.dh.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_width<kVector<T>>(aligned(kVector<T>, columns, {args.dh, args.gate_up}), [&](auto width) {
      const auto [grid, block] = row_grid(tokens, columns, width());
      launch(on, swiglu_backward_kernel<T, width()>, grid, block, 0, global<T>(args.gate_up), global<const T>(args.dh),
             static_cast<int>(columns));
    });
  });
}

}  // namespace openalpaca::cuda
