// AdamW in one pass over a flat shard, limited by memory bandwidth. Scalars are computed in double on the host, and the
// operations follow PyTorch's order.
#include <cmath>

#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kN = 4;       // elements per thread: 16 bytes of float32
constexpr int kBlocks = 6;  // per multiprocessor, limited by registers: with more, the compiler would spill

struct Constants {
  float decay, step_size, rest1, beta2, rest2, root_correction2, eps, grad_scale;
};

// Reads grad, master, m, and v; writes master, m, v, and weights: 28 bytes per parameter with bfloat16 weights and
// gradients, 30 with float32 gradients. After a fault on the stream the gradients may be wrong, so nothing is written.
template <class A, class G, int N>
__global__ void __launch_bounds__(kFlatThreads, kBlocks)
    adamw_kernel(Global<A> weights, Global<float> master, Global<float> m, Global<float> v, Global<const G> grad,
                 int64_t n, bool write_weights, Constants c, Global<const Fault> fault) {
  const bool sound = fault[0].op == 0;
  for_my_elements<N>(n, [&](int64_t i, auto width) {
    const Vec<float, width()> g = to_floats(load<width()>(grad + i));
    Vec<float, width()> first = load<width()>(m + i), second = load<width()>(v + i), p = load<width()>(master + i);
    if (!sound) return;
#pragma unroll
    for (int k = 0; k < width(); ++k) {
      const float scaled = g[k] * c.grad_scale;
      first[k] = fmaf(scaled - first[k], c.rest1, first[k]);
      second[k] = fmaf(second[k], c.beta2, scaled * scaled * c.rest2);
      p[k] = fmaf(p[k], c.decay, -first[k] * c.step_size / (sqrtf(second[k]) / c.root_correction2 + c.eps));
    }
    store<width()>(m + i, first);
    store<width()>(v + i, second);
    store<width()>(master + i, p);
    if (write_weights) store<width()>(weights + i, from_floats<A>(p));
  });
}

}  // namespace

void adamw(const AdamW& args, const Launcher& on) {
  const int64_t n = args.master.numel();
  if (n == 0) return;
  const double correction1 = 1 - std::pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - std::pow(args.beta2, static_cast<double>(args.step));
  Constants c;
  c.decay = static_cast<float>(1 - args.lr * args.weight_decay);
  c.step_size = static_cast<float>(args.lr / correction1);
  c.rest1 = static_cast<float>(1 - args.beta1);
  c.beta2 = static_cast<float>(args.beta2);
  c.rest2 = static_cast<float>(1 - args.beta2);
  c.root_correction2 = static_cast<float>(std::sqrt(correction2));
  c.eps = static_cast<float>(args.eps);
  c.grad_scale = static_cast<float>(args.grad_scale);
  with_float(args.weights ? args.weights.dtype : DType::float32, [&](auto a) {
    with_float(args.grad.dtype, [&](auto g) {
      using A = decltype(a);
      using G = decltype(g);
      with_width<kN>(aligned(kN, 0, {args.weights, args.master, args.m, args.v, args.grad}), [&](auto width) {
        launch(on, adamw_kernel<A, G, width()>, flat_grid(n, width()), kFlatThreads, 0, global<A>(args.weights),
               global<float>(args.master), global<float>(args.m), global<float>(args.v), global<const G>(args.grad), n,
               static_cast<bool>(args.weights), c, global<const Fault>(on.fault, 1));
      });
    });
  });
}

}  // namespace openalpaca::cuda
