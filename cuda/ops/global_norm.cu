// The sum of squares of a flat shard. A block sums a chunk in float32, with at most 64 elements per thread; then one
// block adds the chunks' sums in double. Both orders depend only on n, so the bits are the same on every chip.
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 16384;
constexpr int kAddThreads = 1024;

// Reads x: 4 bytes per element in float32, 2 in bfloat16.
template <class T, bool kWide>
__global__ void __launch_bounds__(kThreads) sum_chunks(Global<float> sums, Global<const T> x, int64_t n) {
  constexpr int kN = kVector<T>;
  SharedMemory memory;
  const Shared<float> scratch = memory.take<float>(kWarp, "reduction");
  const int64_t start = int64_t{blockIdx.x} * kChunk;
  Vec<float, kN> sum = {};
  if (start + kChunk <= n) {
#pragma unroll
    for (int j = 0; j < kChunk / kN / kThreads; ++j) {
      const Vec<float, kN> values = to_floats(load_piece<T, kWide>(x + start, piece_column<T>(j), kChunk));
#pragma unroll
      for (int k = 0; k < kN; ++k) sum[k] = fmaf(values[k], values[k], sum[k]);
    }
  } else {
    for (int64_t i = start + threadIdx.x; i < n; i += kThreads) sum[0] = fmaf(to_float(x[i]), to_float(x[i]), sum[0]);
  }
#pragma unroll
  for (int k = 1; k < kN; ++k) sum[0] += sum[k];
  const float total = block_reduce<Sum>(sum[0], scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

__global__ void __launch_bounds__(kAddThreads) add_chunks(Global<float> out, Global<const float> sums, int chunks) {
  SharedMemory memory;
  const Shared<double> totals = memory.take<double>(kAddThreads, "totals");
  double total = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < chunks; i += kAddThreads) total += sums[i];
  totals[threadIdx.x] = total;
  for (int half = kAddThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) totals[threadIdx.x] += totals[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[0] = static_cast<float>(totals[0]);
}

}  // namespace

void global_norm(const GlobalNorm& args, const Launcher& on) {
  const int64_t n = args.x.numel(), chunks = ceil_div(n, kChunk);
  void* const sums = on.workspace(std::max<int64_t>(chunks, 1) * sizeof(float));
  if (n > 0) {
    with_float(args.x.dtype, [&](auto zero) {
      using T = decltype(zero);
      with_flag(aligned(kVector<T>, 0, {args.x}), [&](auto wide) {
        launch(on, sum_chunks<T, wide()>, dim3(chunks), kThreads, SharedMemory::round_up(kWarp * sizeof(float)),
               global<float>(sums, chunks), global<const T>(args.x), n);
      });
    });
  }
  launch(on, add_chunks, dim3(1), kAddThreads, SharedMemory::round_up(kAddThreads * sizeof(double)),
         global<float>(args.out), global<const float>(sums, chunks), static_cast<int>(chunks));
}

}  // namespace openalpaca::cuda
