// c = alpha · a · bᵀ + beta · c with a few rows of input a [m, k] and weights b [n, k]. Every weight is read once, and
// these reads dominate, so the kernels keep many loads in flight: a block has few rows of weights, and its warps
// alternate along k, with kUnroll loads of 16 bytes ahead of their use.
//
// bfloat16 uses the tensor cores even for one row of input, so that only the loads cost instructions: no conversions,
// no products of each weight with each row. An mma takes 16 rows of input; missing ones are 0.
//
// An element of c is summed in an order that depends only on n and k: a sequence decodes to the same bits alone and in
// a batch.
#include "cuda/kernel.cuh"
#include "cuda/ops/matvec.h"

namespace openalpaca::cuda {
namespace {

constexpr int kUnroll = 4;  // weight loads in flight per lane

// Adds the sums of a block's warps in order, and writes its piece of c: m rows of kWidth columns from `column` on.
// `sums` is [warps, kRows, kWidth].
template <int kRows, int kWidth, class C>
__device__ void finish(Global<C> c, Shared<float> sums, int m, int64_t column, int64_t n, float alpha, float beta) {
  const int warps = blockDim.x / kWarp;
  for (int i = threadIdx.x; i < m * kWidth; i += blockDim.x) {
    const int64_t j = column + i % kWidth;
    if (j >= n) continue;
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += sums[w * kRows * kWidth + i];
    const int64_t at = i / kWidth * n + j;
    c[at] = from_float<C>(beta == 0 ? alpha * sum : alpha * sum + beta * to_float(c[at]));
  }
}

// ---- bfloat16: tensor cores -----------------------------------------------------------------------------------------

constexpr int kColumns = 8;  // rows of weights per block, which are columns of c: those of one mma
constexpr int kStep = 32;    // elements along k per step of a warp: 8 in each of the four lanes of a row

struct Eight {
  uint32_t pairs[4];
};

// Loads eight adjacent elements of a row of k elements from `at` on, in accesses of N, with zeros past the end. Weights
// are read only once, and would evict the input from the first-level cache.
template <int N, bool kOnce>
__device__ __forceinline__ Eight load_eight(Global<const bf16> row, int64_t at, int64_t k, bool valid) {
  Vec<bf16, 8> values = {};
#pragma unroll
  for (int i = 0; i < 8; i += N) {
    if (!valid || at + i >= k) continue;
    const Vec<bf16, N> piece = kOnce ? load_once<N>(row + (at + i)) : load<N>(row + (at + i));
#pragma unroll
    for (int j = 0; j < N; ++j) values[i + j] = piece[j];
  }
  Eight eight;
  static_assert(sizeof(eight) == sizeof(values));
  __builtin_memcpy(&eight, &values, sizeof(eight));
  return eight;
}

// The weights are the mma's 16×8 operand and the input its 16×16 one. The order along k within the operands does not
// matter if both agree, so a lane loads eight adjacent elements at once and uses them in two mma.
template <int N, bool kTwoTiles, class C>
__global__ void matvec_bf16(Global<C> c, Global<const bf16> a, Global<const bf16> b, int m, int64_t n, int64_t k,
                            float alpha, float beta) {
  SharedMemory memory;
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  constexpr int kRows = kTwoTiles ? 16 : 8;
  auto sums = memory.take<float>(warps * kRows * kColumns, "sums");

  const int group = lane / 4, quarter = lane % 4;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns;
  const bool has_column = column + group < n, has_upper = group < m, has_lower = kTwoTiles && group + 8 < m;
  const Global<const bf16> weights = b + (has_column ? column + group : 0) * k;
  const Global<const bf16> upper = a + (has_upper ? group : 0) * k, lower = a + (has_lower ? group + 8 : 0) * k;

  float d[4] = {};
  for (int64_t first = warp * kStep; first < k; first += static_cast<int64_t>(kUnroll) * warps * kStep) {
    Eight w[kUnroll], x[kUnroll], y[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = first + u * warps * kStep + quarter * 8;
      w[u] = load_eight<N, true>(weights, at, k, has_column);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = first + u * warps * kStep + quarter * 8;
      x[u] = load_eight<N, false>(upper, at, k, has_upper);
      if constexpr (kTwoTiles) y[u] = load_eight<N, false>(lower, at, k, has_lower);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
#pragma unroll
      for (int half = 0; half < 4; half += 2) {
        const uint32_t input[4] = {x[u].pairs[half], y[u].pairs[half], x[u].pairs[half + 1], y[u].pairs[half + 1]};
        const uint32_t weight[2] = {w[u].pairs[half], w[u].pairs[half + 1]};
        mma_m16n8k16(d, input, weight);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < (kTwoTiles ? 4 : 2); ++i) {
    sums[(warp * kRows + group + i / 2 * 8) * kColumns + quarter * 2 + i % 2] = d[i];
  }
  __syncthreads();
  finish<kRows, kColumns>(c, sums, m, column, n, alpha, beta);
}

// ---- float32 --------------------------------------------------------------------------------------------------------

// A block has one row of weights, and all its threads iterate along it.
template <int N, int M, class C>
__global__ void matvec_f32(Global<C> c, Global<const float> a, Global<const float> b, int m, int64_t n, int64_t k,
                           float alpha, float beta) {
  SharedMemory memory;
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  auto sums = memory.take<float>(warps * M, "sums");
  const Global<const float> weights = b + blockIdx.x * k;

  float totals[M] = {};
  for (int64_t first = threadIdx.x * N; first < k; first += static_cast<int64_t>(kUnroll) * blockDim.x * N) {
    Vec<float, N> w[kUnroll] = {};
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = first + u * blockDim.x * N;
      if (at < k) w[u] = load_once<N>(weights + at);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = first + u * blockDim.x * N;
      if (at >= k) continue;
#pragma unroll
      for (int i = 0; i < M; ++i) {
        if (i >= m) continue;
        const Vec<float, N> x = load<N>(a + (i * k + at));
#pragma unroll
        for (int j = 0; j < N; ++j) totals[i] += w[u][j] * x[j];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < M; ++i) {
    const float total = warp_reduce<Sum>(totals[i]);
    if (lane == 0) sums[warp * M + i] = total;
  }
  __syncthreads();
  finish<M, 1>(c, sums, m, blockIdx.x, n, alpha, beta);
}

// ---- choices --------------------------------------------------------------------------------------------------------

// Warps per block, which share its sums along k. To keep HBM busy, a multiprocessor of an A100 or H100 needs 24 KB or
// so in flight, and a warp has 2 KB (kUnroll · 16 bytes · 32 lanes):
//   few blocks, as for 3200 columns (3 blocks per multiprocessor)    8 warps: 24 · 2 KB
//   many blocks (16 or more), as for the vocabulary                  4 warps: fewer sums to combine at the end
// Rows too short to give each warp a step use fewer.
int choose_warps(const Chip& chip, int64_t blocks, int64_t steps) {
  const int warps = blocks >= 16 * chip.multiprocessors ? 4 : 8;
  return steps < warps ? static_cast<int>(steps) : warps;
}

bool aligned(const Tensor& x, int64_t k) {
  return k * static_cast<int64_t>(size_of(x.dtype)) % 16 == 0 && reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0;
}

template <int N, class C>
void launch_bf16(const MatMul& args, int m, int64_t n, int64_t k, const Launcher& on) {
  const int64_t blocks = ceil_div(n, kColumns);
  const int warps = choose_warps(on.chip, blocks, ceil_div(k, kStep));
  const auto kernel = m <= 8 ? matvec_bf16<N, false, C> : matvec_bf16<N, true, C>;
  const int rows = m <= 8 ? 8 : 16;
  launch(on, kernel, static_cast<unsigned>(blocks), warps * kWarp,
         SharedMemory::round_up(warps * rows * kColumns * static_cast<int>(sizeof(float))), global<C>(args.c),
         global<const bf16>(args.a), global<const bf16>(args.b), m, n, k, static_cast<float>(args.alpha),
         static_cast<float>(args.beta));
}

template <int N, int M, class C>
void launch_f32(const MatMul& args, int m, int64_t n, int64_t k, const Launcher& on) {
  const int warps = choose_warps(on.chip, n, ceil_div(k, kWarp * N));
  launch(on, matvec_f32<N, M, C>, static_cast<unsigned>(n), warps * kWarp,
         SharedMemory::round_up(warps * M * static_cast<int>(sizeof(float))), global<C>(args.c),
         global<const float>(args.a), global<const float>(args.b), m, n, k, static_cast<float>(args.alpha),
         static_cast<float>(args.beta));
}

}  // namespace

void matvec(const MatMul& args, const Launcher& on) {
  const int m = static_cast<int>(args.c.shape[0]);
  const int64_t n = args.c.shape[1], k = args.a.shape[1];
  const bool wide = aligned(args.a, k) && aligned(args.b, k);
  with_float(args.c.dtype, [&](auto zero) {
    using C = decltype(zero);
    if (args.a.dtype == DType::bfloat16) {
      return wide ? launch_bf16<8, C>(args, m, n, k, on) : launch_bf16<1, C>(args, m, n, k, on);
    }
    if (m == 1) return wide ? launch_f32<4, 1, C>(args, m, n, k, on) : launch_f32<1, 1, C>(args, m, n, k, on);
    return wide ? launch_f32<4, 16, C>(args, m, n, k, on) : launch_f32<1, 16, C>(args, m, n, k, on);
  });
}

}  // namespace openalpaca::cuda
