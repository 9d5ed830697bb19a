// Attention, forward: FlashAttention-2 (Dao, arXiv:2307.08691) on mma.sync.
//
// A block processes a tile of queries of one head and iterates over the keys that they attend to, in tiles of kKeys,
// with the online softmax of Milakov & Gimelshein (arXiv:1805.02867). Keys and values have one buffer each, loaded
// alternately: the values arrive during S = Q Kᵀ, and the next keys during the softmax and O += P V. Scores exist only
// in registers. Each sum runs over the keys in order, independent of the batch, so that a packed sequence gets the same
// bits as the sequence alone.
//
// Work: 2 products of D·L²/2 multiply-adds each per head for a sequence of L tokens, 2·D·L² FLOP.
#include <algorithm>
#include <cmath>

#include "cuda/ops/attention.cuh"
#include "cuda/ops/attention_tiles.cuh"

namespace openalpaca::cuda {
namespace {

// The tile configuration. bfloat16: a warp has 32 queries, not 16, so that each read of K and V serves two products;
// with 16, these reads alone would take 128 bytes per cycle, the full bandwidth of shared memory. Those 32 rows of S
// and O are 192 registers at D = 128: 8 warps fill a multiprocessor, and two blocks of 4 hide each other's barriers. At
// 70 KB of shared memory per block (D = 128), two fit on sm_80 and sm_90, and one on sm_86 and sm_89. float32: as much
// as fits in 99 KB.
template <class T>
struct Cut {
  static constexpr bool kTensorCores = std::is_same_v<T, bf16>;
  static constexpr int kWarps = 4, kRowTiles = kTensorCores ? 2 : 1;  // of 16 queries, per warp
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kQueries = kWarps * 16 * kRowTiles, kKeys = kTensorCores ? 64 : 32;
};

// For each of a lane's rows: the largest score so far, and this lane's part of Σ exp2(score − max). Scores here are the
// products q·k times `scale`, which is positive and includes the factor log2(e).
template <int kRows>
struct OnlineSoftmax {
  float max[kRows], sum[kRows];

  __device__ OnlineSoftmax() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      max[r] = -INFINITY;
      sum[r] = 0;
    }
  }

  // Processes more products, turns them into probabilities relative to the new maximum, and rescales the earlier sums
  // to it.
  template <int R, int N, int M>
  __device__ __forceinline__ void add(Registers<R, N>& s, float scale, Registers<R, M>& out) {
    float largest[kRows], factor[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) largest[r] = -INFINITY;
    s.for_each([&](int r, int, float& x) { largest[r] = fmaxf(largest[r], x); });
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float before = max[r];
      max[r] = fmaxf(before, row_reduce<Max>(largest[r]) * scale);
      factor[r] = exp2_approx(before - max[r]);
      sum[r] *= factor[r];
    }
    out.for_each([&](int r, int, float& x) { x *= factor[r]; });
    s.for_each([&](int r, int, float& x) {
      x = exp2_approx(fmaf(x, scale, -max[r]));
      sum[r] += x;
    });
  }
};

template <class T, int kHead, int kAccess>
__global__ void __launch_bounds__(Cut<T>::kThreads)
    attention_kernel(Global<T> out, Global<float> lse, Global<const T> qkv, AttentionShape shape, TileList tiles,
                     float scale, bool negative) {
  using C = Cut<T>;
  const auto [tile, head] = block_work(tiles, shape.heads);
  if (tile.empty()) return;
  const auto rows = [&](int h) { return rows_of(qkv, shape.qkv_stride(), tile.start, tile.length, h, shape.d); };
  const int kv_head = shape.heads + head / shape.group();
  const Rows<const T> queries = rows(head), keys = rows(kv_head), values = rows(kv_head + shape.kv_heads);

  SharedMemory memory;
  const SharedTile<T, kHead> q(memory, C::kQueries, "q"), k(memory, C::kKeys, "k"), v(memory, C::kKeys, "v");
  const int warp_first = uniform(threadIdx.x / kWarp) * 16 * C::kRowTiles;  // the warp's queries: in the tile,
  const int first = tile.first + warp_first;                                // and in the sequence
  const int last = first + 16 * C::kRowTiles - 1;
  const int key_end = min(tile.first + C::kQueries, tile.length);

  Registers<C::kRowTiles, kHead / 8> o;
  OnlineSoftmax<o.kRows> softmax;

  load<kAccess, C::kQueries, C::kThreads>(q, queries, tile.first);
  load<kAccess, C::kKeys, C::kThreads>(k, keys, 0);
  for (int key = 0; key < key_end; key += C::kKeys) {
    const bool seen = key <= last && first < tile.length;  // whether any query of this warp attends to it
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();  // the keys have arrived, and all warps have finished with the previous values
    load<kAccess, C::kKeys, C::kThreads>(v, values, key);
    Registers<C::kRowTiles, C::kKeys / 8> s;
    if (seen) add_abt(s, q.from(warp_first), k);

    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();  // the values have arrived, and all warps have finished with the keys
    if (key + C::kKeys < key_end) load<kAccess, C::kKeys, C::kThreads>(k, keys, key + C::kKeys);
    if (!seen) continue;
    if (negative) s.for_each([](int, int, float& x) { x = -x; });
    if (key + C::kKeys - 1 > first) set_above_diagonal(s, first, key, -INFINITY);
    softmax.add(s, scale, o);
    add_ab(o, s, v);
  }

  float factor[o.kRows];
#pragma unroll
  for (int r = 0; r < o.kRows; ++r) {
    const float sum = row_reduce<Sum>(softmax.sum[r]);
    const int row = first + o.row(r);
    factor[r] = 1 / sum;
    if (threadIdx.x % 4 == 0 && row < tile.length) {
      lse[static_cast<int64_t>(head) * shape.tokens + tile.start + row] = (softmax.max[r] + log2f(sum)) * kLn2;
    }
  }
  store(rows_of(out, shape.out_stride(), tile.start, tile.length, head, shape.d), first, o, factor);
}

}  // namespace

void attention_forward(const AttentionForward& args, const Launcher& on) {
  const AttentionShape shape = attention_shape(args.qkv, args.num_heads, args.num_kv_heads, on.op);
  with_head_size(args.qkv.dtype, shape.d, [&]<class T, int kHead>(T, Constant<kHead>) {
    using C = Cut<T>;
    using Tile = SharedTile<T, kHead>;
    const int count = most_tiles(shape.tokens, args.cu_seqlens, C::kQueries);
    void* const workspace = on.workspace(tile_list_bytes(count));
    const TileList tiles = cut_sequences(args.cu_seqlens, shape.tokens, C::kQueries, Work::rises, workspace, on);
    if (count == 0) return;
    // Never 0, which would turn a masked score, −∞, into NaN. A negative scale negates the products instead.
    const float scale = std::max(std::abs(static_cast<float>(args.scale)), 1e-30f) * kLog2E;
    with_access<kHead>(shape.d, {&args.qkv}, [&]<int kAccess>(Constant<kAccess>) {
      launch(on, attention_kernel<T, kHead, kAccess>, block_count(tiles, shape.heads), C::kThreads,
             Tile::bytes(C::kQueries) + 2 * Tile::bytes(C::kKeys), global<T>(args.out), global<float>(args.lse),
             global<const T>(args.qkv), shape, tiles, scale, args.scale < 0);
    });
  });
}

}  // namespace openalpaca::cuda
