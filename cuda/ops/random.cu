// Normal random numbers for new weights: four from each Philox counter, by the Box–Muller transform. Element i depends
// only on the seed, the tensor's stream, and i, as on the CPU.
#include "core/philox.h"
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kDraws = 4;  // per counter

// Writes x. The logarithms, roots, sines, and cosines cost more than the memory accesses, but it runs only once, for
// new weights.
template <class T, bool kWide>
__global__ void __launch_bounds__(kFlatThreads)
    random_normal_kernel(Global<T> x, int64_t n, float std, uint64_t seed, uint64_t stream_id) {
  const int64_t counter = int64_t{blockIdx.x} * kFlatThreads + threadIdx.x, i = counter * kDraws;
  if (i >= n) return;
  const PhiloxWords random = philox(seed, counter, stream_id);
  Vec<float, kDraws> draws;
#pragma unroll
  for (int pair = 0; pair < kDraws; pair += 2) {
    const float radius = sqrtf(-2.0f * logf(unit_open(random.word[pair])));
    const float angle = 6.283185307f * unit_open(random.word[pair + 1]);
    draws[pair] = std * (radius * cosf(angle));
    draws[pair + 1] = std * (radius * sinf(angle));
  }
  const Vec<T, kDraws> rounded = from_floats<T>(draws);
  if (kWide && i + kDraws <= n) {
    store<kDraws>(x + i, rounded);
  } else {
#pragma unroll
    for (int k = 0; k < kDraws; ++k) {
      if (i + k < n) x[i + k] = rounded[k];
    }
  }
}

}  // namespace

void random_normal(const RandomNormal& args, const Launcher& on) {
  const int64_t n = args.x.numel();
  if (n == 0) return;
  with_float(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_flag(aligned(kDraws, 0, {args.x}), [&](auto wide) {
      launch(on, random_normal_kernel<T, wide()>, flat_grid(n, kDraws), kFlatThreads, 0, global<T>(args.x), n,
             static_cast<float>(args.std), static_cast<uint64_t>(args.seed), static_cast<uint64_t>(args.stream_id));
    });
  });
}

}  // namespace openalpaca::cuda
