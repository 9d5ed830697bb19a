// AdamW in one pass over a flat shard, limited by memory bandwidth: 28 bytes per parameter with bfloat16 weights and
// gradients. Scalars are computed in double, and the operations follow PyTorch's order.
#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

inline Vec sqrt(Vec x) {
#if defined(__AVX512F__)
  return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(x);
#else
  for (int i = 0; i < kLanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

}  // namespace

void adamw(const AdamW& args) {
  const double correction1 = 1 - __builtin_pow(args.beta1, static_cast<double>(args.step));
  const double correction2 = 1 - __builtin_pow(args.beta2, static_cast<double>(args.step));
  const float decay = 1 - args.lr * args.weight_decay, step_size = args.lr / correction1;
  const float beta2 = args.beta2, rest1 = 1 - args.beta1, rest2 = 1 - args.beta2;
  const float root_correction2 = __builtin_sqrt(correction2), eps = args.eps, grad_scale = args.grad_scale;
  float *master = args.master.data<float>(), *m = args.m.data<float>(), *v = args.v.data<float>();
  dispatch(args.grad.dtype, [&]<class G>() {
    dispatch(args.weights ? args.weights.dtype : DType::float32, [&]<class A>() {
      const G* grad = args.grad.data<G>();
      A* weights = args.weights.data<A>();  // or null
      for_each_block(args.master.numel(), 4096, [&](int64_t begin, int64_t end) {
        for_each_vec(end - begin, [&](int64_t offset, int count) {
          const int64_t i = begin + offset;
          const Vec g = load(grad + i, count) * grad_scale;
          Vec first = load(m + i, count), second = load(v + i, count), p = load(master + i, count) * decay;
          first += (g - first) * rest1;
          second = second * beta2 + g * g * rest2;
          p -= first * step_size / (sqrt(second) / root_correction2 + eps);
          store(m + i, first, count);
          store(v + i, second, count);
          store(master + i, p, count);
          if (weights) store(weights + i, p, count);
        });
      });
    });
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
