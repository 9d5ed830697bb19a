// Attention of one new token per sequence over its key/value cache, split along the cache's length (Flash-Decoding, Dao
// et al. 2023). The only reuse is of a cache row by the query heads that share it: the cost is one pass over the cache
// at memory speed.
//
// A block processes a chunk of kChunk positions of one key/value head, which its threads hold in registers: each thread
// loads all of its keys and values before it uses the first. The query heads that share them are then processed one
// after another. Each chunk has its own softmax; a second kernel combines a head's chunks in order. The chunks do not
// depend on the batch, so a sequence decodes to the same bits alone and in a batch; they are launched for the whole
// cache, since positions are known only on the device, and chunks past a sequence's end return.
#include <string>

#include "core/device.h"
#include "cuda/kernel.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kMaxHeadSize = 128;
constexpr int kWarps = 4;
constexpr int kTeam = 8;       // lanes that share a position: 8 · 16 bytes are a row of 64 bfloat16
constexpr int kPositions = 4;  // per team, in registers
constexpr int kTeams = kWarp / kTeam;
constexpr int kChunk = kWarps * kTeams * kPositions;
constexpr int kElements = kMaxHeadSize / kTeam;  // of a row, per lane
constexpr int kMaxHeads = 8;                     // query heads per block: its shared memory holds their parts
constexpr int kMergeWarps = 8;
constexpr float kLog2E = 1.44269504f;

// A block's, or one of its warps', result for a query head: the largest score (scaled by log2(e)), Σ exp2(score − max),
// and Σ exp2(score − max) · value per column.
struct Parts {
  Global<float> max, sum, out;  // [B, H, chunks], the same, [B, H, chunks, D]
};

struct Shape {
  int heads, kv_heads, d, length, chunks;
  float scale;  // includes the factor log2(e)
};

// ---- rows in a team -------------------------------------------------------------------------------------------------

// Lane l of a team has the accesses l, l + 8, … of N numbers each, so that a team's accesses are adjacent in memory.
template <int N>
__device__ __forceinline__ int column_of(int lane, int i) {
  return (i / N * kTeam + lane) * N + i % N;
}

template <class T, int N>
struct Row {
  Vec<T, N> pieces[kElements / N];

  // Zeros if there is no row, so that it contributes nothing.
  __device__ __forceinline__ void load_row(Global<const T> row, int lane, int d, bool valid) {
#pragma unroll
    for (int i = 0; i < kElements / N; ++i) {
      const int column = column_of<N>(lane, i * N);
      pieces[i] = {};
      if (valid && column < d) pieces[i] = load<N>(row + column);
    }
  }
  __device__ __forceinline__ float operator[](int i) const { return to_float(pieces[i / N][i % N]); }
};

__device__ __forceinline__ float sum_team(float x) { return warp_reduce<Sum, kTeam>(x); }

// Over the lanes with the same position in each team of the warp.
template <class Op>
__device__ __forceinline__ float across_teams(float x) {
#pragma unroll
  for (int step = kTeam; step < kWarp; step *= 2) x = Op{}(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// exp2(x − max), or 0 if max is −∞, which means no scores.
__device__ __forceinline__ float weight(float x, float max) { return max == -INFINITY ? 0 : exp2_approx(x - max); }

// ---- a chunk --------------------------------------------------------------------------------------------------------

template <class T, int N>
__global__ void __launch_bounds__(kWarps* kWarp)
    attend_chunk(Global<T> out, Parts parts, Global<const T> qkv, Global<const T> k_cache, Global<const T> v_cache,
                 Global<const int> positions, Global<Fault> fault, int op, Shape shape) {
  SharedMemory memory;
  const int d = shape.d, chunk = blockIdx.y, b = blockIdx.z;
  const int group = shape.heads / shape.kv_heads, tiles = static_cast<int>(ceil_div(group, kMaxHeads));
  const int kv_head = blockIdx.x / tiles, first = blockIdx.x % tiles * kMaxHeads;  // of the group's heads
  const int heads = group - first < kMaxHeads ? group - first : kMaxHeads;
  const int row = d + 2;  // a warp's part of a head: out, max, sum
  auto warps = memory.take<float>(heads * kWarps * row, "warps");

  const int position = positions[b];
  if (position < 0 || position >= shape.length) {
    if (threadIdx.x == 0 && blockIdx.x == 0 && blockIdx.y == 0) report(fault, op, b, position, shape.length);
    return;
  }
  if (chunk * kChunk > position) return;

  const int warp = threadIdx.x / kWarp, team = threadIdx.x % kWarp / kTeam, lane = threadIdx.x % kTeam;
  Row<T, N> keys[kPositions], values[kPositions];
  bool seen[kPositions];
#pragma unroll
  for (int i = 0; i < kPositions; ++i) {
    const int at = chunk * kChunk + (i * kWarps + warp) * kTeams + team;
    seen[i] = at <= position;
    const int64_t place = ((static_cast<int64_t>(b) * shape.length + at) * shape.kv_heads + kv_head) * d;
    keys[i].load_row(k_cache + (seen[i] ? place : 0), lane, d, seen[i]);
    values[i].load_row(v_cache + (seen[i] ? place : 0), lane, d, seen[i]);
  }

  const int64_t token = static_cast<int64_t>(b) * (shape.heads + 2 * shape.kv_heads);
  for (int h = 0; h < heads; ++h) {
    Row<T, N> query;
    query.load_row(qkv + (token + kv_head * group + first + h) * d, lane, d, true);

    float scores[kPositions], max = -INFINITY;
#pragma unroll
    for (int i = 0; i < kPositions; ++i) {
      float dot = 0;
#pragma unroll
      for (int j = 0; j < kElements; ++j) dot += query[j] * keys[i][j];
      const float score = sum_team(dot) * shape.scale;
      scores[i] = seen[i] ? score : -INFINITY;
      max = fmaxf(max, scores[i]);
    }
    max = across_teams<Max>(max);

    float sum = 0, sums[kElements] = {};
#pragma unroll
    for (int i = 0; i < kPositions; ++i) {
      const float p = seen[i] ? weight(scores[i], max) : 0;
      sum += p;
#pragma unroll
      for (int j = 0; j < kElements; ++j) sums[j] += p * values[i][j];
    }
    sum = across_teams<Sum>(sum);
    const auto part = warps + (h * kWarps + warp) * row;
#pragma unroll
    for (int j = 0; j < kElements; ++j) {
      const float total = across_teams<Sum>(sums[j]);
      const int column = column_of<N>(lane, j);
      if (team == 0 && column < d) part[column] = total;
    }
    if (team == 0 && lane == 0) {
      part[d] = max;
      part[d + 1] = sum;
    }
  }
  __syncthreads();

  // Combines the warps' parts.
  for (int i = threadIdx.x; i < heads * d; i += blockDim.x) {
    const int h = i / d, column = i % d;
    const auto part = warps + h * kWarps * row;
    float max = -INFINITY, sum = 0, total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) max = fmaxf(max, part[w * row + d]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float share = weight(part[w * row + d], max);
      sum += share * part[w * row + d + 1];
      total += share * part[w * row + column];
    }
    const int64_t head = static_cast<int64_t>(b) * shape.heads + kv_head * group + first + h;
    if (shape.chunks == 1) {
      out[head * d + column] = from_float<T>(total / sum);
      continue;
    }
    const int64_t at = head * shape.chunks + chunk;
    parts.out[at * d + column] = total;
    if (column == 0) {
      parts.max[at] = max;
      parts.sum[at] = sum;
    }
  }
}

// ---- combining the chunks of a head ---------------------------------------------------------------------------------

// A block has a head; its warps alternate over the chunks, to keep many loads in flight.
template <class T>
__global__ void __launch_bounds__(kMergeWarps* kWarp)
    merge_chunks(Global<T> out, Parts parts, Global<const int> positions, Shape shape) {
  SharedMemory memory;
  auto totals = memory.take<float>(kMergeWarps * (kMaxHeadSize + 1), "totals");
  auto scratch = memory.take<float>(kMergeWarps, "scratch");
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, d = shape.d;
  const int64_t head = blockIdx.x, first = head * shape.chunks;
  const int position = positions[head / shape.heads];
  if (position < 0 || position >= shape.length) return;  // attend_chunk has reported it
  const int chunks = position / kChunk + 1;

  float max = -INFINITY;
  for (int c = threadIdx.x; c < chunks; c += blockDim.x) max = fmaxf(max, parts.max[first + c]);
  max = block_reduce<Max>(max, scratch);

  constexpr int kColumns = kMaxHeadSize / kWarp;
  float sum = 0, columns[kColumns] = {};
#pragma unroll 4
  for (int c = warp; c < chunks; c += kMergeWarps) {
    const float share = weight(parts.max[first + c], max);
    sum += share * parts.sum[first + c];
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int column = i * kWarp + lane;
      if (column < d) columns[i] += share * parts.out[(first + c) * d + column];
    }
  }
#pragma unroll
  for (int i = 0; i < kColumns; ++i) totals[warp * (kMaxHeadSize + 1) + i * kWarp + lane] = columns[i];
  if (lane == 0) totals[warp * (kMaxHeadSize + 1) + kMaxHeadSize] = sum;
  __syncthreads();

  for (int column = threadIdx.x; column < d; column += blockDim.x) {
    float total = 0, denominator = 0;
    for (int w = 0; w < kMergeWarps; ++w) {
      total += totals[w * (kMaxHeadSize + 1) + column];
      denominator += totals[w * (kMaxHeadSize + 1) + kMaxHeadSize];
    }
    out[head * d + column] = from_float<T>(total / denominator);
  }
}

// Elements per access: as many, up to 16 bytes, as the head size and the addresses allow. A row of 100 bfloat16 is 200
// bytes, a multiple of 8.
template <class T>
int choose_access(const AttentionDecode& args) {
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(args.qkv.raw()) |
                              reinterpret_cast<uintptr_t>(args.k_cache.raw()) |
                              reinterpret_cast<uintptr_t>(args.v_cache.raw()) | args.qkv.shape[2] * sizeof(T);
  int n = kVector<T>;
  while (addresses % (n * sizeof(T)) != 0) n /= 2;
  return n;
}

template <class T, int N>
void launch_chunks(const AttentionDecode& args, const Parts& parts, const Shape& shape, const Launcher& on) {
  const int64_t batch = args.qkv.shape[0], group = shape.heads / shape.kv_heads;
  const int heads = group < kMaxHeads ? static_cast<int>(group) : kMaxHeads;
  // The heads of a position are adjacent in the cache, so they come first; chunks that return immediately come last.
  const dim3 grid(static_cast<unsigned>(shape.kv_heads * ceil_div(group, kMaxHeads)), shape.chunks,
                  static_cast<unsigned>(batch));
  launch(on, attend_chunk<T, N>, grid, kWarps * kWarp,
         SharedMemory::round_up(heads * kWarps * (shape.d + 2) * static_cast<int>(sizeof(float))), global<T>(args.out),
         parts, global<const T>(args.qkv), global<const T>(args.k_cache), global<const T>(args.v_cache),
         global<const int>(args.positions), global<Fault>(on.fault, 1), on.op_index, shape);
}

// Workspace for the parts of several chunks; none for a single one, which writes the result.
Parts make_parts(int64_t rows, int64_t d, const Launcher& on) {
  const size_t count = rows;
  float* memory = count ? static_cast<float*>(on.workspace(count * (d + 2) * sizeof(float))) : nullptr;
  return {global<float>(memory, count), global<float>(memory + count, count),
          global<float>(memory + 2 * count, count * d)};
}

}  // namespace

void attention_decode(const AttentionDecode& args, const Launcher& on) {
  const int64_t batch = args.qkv.shape[0], d = args.qkv.shape[2], length = args.k_cache.shape[1];
  if (d % 2 != 0 || d > kMaxHeadSize) {
    throw Error("INVALID_SHAPE", std::string(on.op) + ": the head size must be even and at most " +
                                     std::to_string(kMaxHeadSize) + ", but is " + std::to_string(d));
  }
  if (batch == 0 || d == 0) return;
  const Shape shape = {static_cast<int>(args.num_heads),
                       static_cast<int>(args.num_kv_heads),
                       static_cast<int>(d),
                       static_cast<int>(length),
                       static_cast<int>(length > 0 ? ceil_div(length, kChunk) : 1),
                       static_cast<float>(args.scale) * kLog2E};
  const int64_t rows = batch * args.num_heads;
  const Parts parts = make_parts(shape.chunks == 1 ? 0 : rows * shape.chunks, d, on);
  with_float(args.qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    switch (choose_access<T>(args)) {
      case 8:
        if constexpr (kVector<T> == 8) launch_chunks<T, 8>(args, parts, shape, on);
        break;
      case 4:
        launch_chunks<T, 4>(args, parts, shape, on);
        break;
      case 2:
        launch_chunks<T, 2>(args, parts, shape, on);
        break;
      default:
        launch_chunks<T, 1>(args, parts, shape, on);
    }
    if (shape.chunks == 1) return;
    launch(on, merge_chunks<T>, static_cast<unsigned>(rows), kMergeWarps * kWarp,
           SharedMemory::round_up(kMergeWarps * (kMaxHeadSize + 1) * sizeof(float)) +
               SharedMemory::round_up(kMergeWarps * sizeof(float)),
           global<T>(args.out), parts, global<const int>(args.positions), shape);
  });
}

}  // namespace openalpaca::cuda
