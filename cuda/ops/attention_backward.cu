// Attention, backward: FlashAttention-2 (Dao, arXiv:2307.08691) on mma.sync, in two kernels.
//
//   dq_kernel    a block has a tile of queries and iterates over their keys: dQ, and delta along the way
//   dkv_kernel   a block has a tile of keys and iterates over the queries that attend to them, for all heads of its
//                group: dK, dV
//
// Both recompute P and dS = P · (dP − delta), the second one transposed, so that in both of them a warp owns whole
// rows, and P and dS go directly from accumulator registers into the next product. Every sum has one owner and a fixed
// order: there are no atomics and no float32 dQ in memory, and the same operands yield the same bits.
//
// The cost is 7 products instead of 5 (S and dP twice): 7·D·L² FLOP per head for a sequence of L tokens, of which
// 5·D·L² count as useful. Computing all three gradients from one S and dP would require adding to dQ from many blocks:
// either with atomics, whose order is nondeterministic, or in a fixed order, where blocks wait for each other and every
// tile of keys moves all of dQ in float32 to memory and back.
#include "cuda/ops/attention.cuh"
#include "cuda/ops/attention_tiles.cuh"

namespace openalpaca::cuda {
namespace {

// The tile configuration of a kernel. A block keeps two tiles of rows (Q and dO, or K and V; 16·RowTiles rows per warp)
// and iterates over two tiles of kColumns rows of the others, in one buffer, or in two so that the next ones load
// during the computation. Where shared memory has room for exactly that many blocks on a multiprocessor, Blocks keeps
// ptxas from saving registers for another one; 0 leaves it to ptxas.
template <int Warps, int RowTiles, int Buffers, int Blocks = 0>
struct Cut {
  static constexpr int kThreads = Warps * kWarp, kRowTiles = RowTiles, kBuffers = Buffers, kBlocks = Blocks;
  static constexpr int kRows = Warps * 16 * RowTiles;
};

template <class T>
constexpr int kColumns = std::is_same_v<T, bf16> ? 64 : 32;

template <class T, int kHead>
struct Cuts {
  // dq_kernel: 32 queries per warp, so that each read of K and V serves two products, and 4 warps: two blocks hide each
  // other's barriers. At D = 128 that takes 104 KB per block.
  using Queries = Cut<4, 2, 1>;
  // … if two of those do not fit, from D = 100 on (sm_80: 164 KB, sm_86 and sm_89: 100 KB): 70 KB at D = 128, hence two
  // blocks. Without that bound ptxas aims at three with 168 registers and, from 13.5 on, spills at D = 100; with it the
  // kernel takes about 200 of the 255.
  using QueriesSmall = std::conditional_t<(kHead > 96), Cut<4, 1, 1, 2>, Queries>;

  // dkv_kernel: dK and dV are two sums, 256 registers at D = 128 with 32 keys per warp, so only small heads use 32. The
  // others use 16, in blocks of 8 warps, since more keys in a block mean fewer reads of Q and dO. 8 warps fill a
  // multiprocessor, and no other block hides the loads, hence two buffers: 140 KB at D = 128.
  using Keys = std::conditional_t<(kHead > 64), Cut<8, 1, 2>, Cut<4, 2, 2>>;
  // … if that is too much for a block (sm_86, sm_89: 99 KB): 70 KB at D = 128.
  using KeysSmall = std::conditional_t<(kHead > 80), Cut<4, 1, 1>, Keys>;
};
// float32: 68 KB at D = 128 on every chip.
template <int kHead>
struct Cuts<float, kHead> {
  using Queries = Cut<2, 1, 1>;
  using QueriesSmall = Queries;
  using Keys = Queries;
  using KeysSmall = Queries;
};

template <class T, int kHead, class Cut>
constexpr int shared_bytes() {
  using Tile = SharedTile<T, kHead>;
  const int sums = SharedMemory::round_up(Cut::kBuffers * kColumns<T> * 4);  // lse and delta
  return 2 * Tile::bytes(Cut::kRows) + 2 * Tile::bytes(Cut::kBuffers * kColumns<T>) + 2 * sums;
}

// Calls multiply(i, buffer) for i = 0 … count − 1, each after load(i, buffer) has fetched its tiles.
template <int kBuffers, class Load, class Multiply>
__device__ __forceinline__ void walk(int count, Load&& load, Multiply&& multiply) {
  load(0, 0);
  for (int i = 0; i < count; ++i) {
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();  // the tiles have arrived, and all warps have finished with the previous ones
    if (kBuffers == 2 && i + 1 < count) load(i + 1, (i + 1) % 2);
    multiply(i, i % kBuffers);
    if (kBuffers == 1) {
      __syncthreads();
      if (i + 1 < count) load(i + 1, 0);
    }
  }
}

// The row sums of dout · out, for each of a lane's rows.
template <int R, class T>
__device__ __forceinline__ void row_dots(float (&dots)[2 * R], const Rows<const T>& a, const Rows<const T>& b,
                                         int first) {
#pragma unroll
  for (int r = 0; r < 2 * R; ++r) {
    const int row = first + Registers<R, 1>::row(r);
    float sum = 0;
    for (int column = threadIdx.x % 4 * 2; row < a.count && column < a.d; column += 8) {
      const auto x = load_pair(a[row] + column), y = load_pair(b[row] + column);
      sum = fmaf(x[0], y[0], fmaf(x[1], y[1], sum));
    }
    dots[r] = row_reduce<Sum>(sum);
  }
}

template <class T>
struct Operands {
  Global<T> dqkv;
  Global<float> delta;
  Global<const T> dout, out;
  Global<const float> lse;
  Global<const T> qkv;
  float scale, scale_log2e;
};

template <class T, int kHead, int kAccess, class Cut>
__global__ void __launch_bounds__(Cut::kThreads, Cut::kBlocks)
    dq_kernel(Operands<T> x, AttentionShape shape, TileList tiles) {
  constexpr int kThreads = Cut::kThreads, kKeys = kColumns<T>, R = Cut::kRowTiles;
  constexpr int kPass = kKeys / R;  // keys whose S and dP are in registers at a time
  const auto [tile, head] = block_work(tiles, shape.heads);
  if (tile.empty()) return;
  const auto rows = [&](int stride, Global<const T> tensor, int h) {
    return rows_of(tensor, stride, tile.start, tile.length, h, shape.d);
  };
  const int k_head = shape.heads + head / shape.group();
  const Rows<const T> keys = rows(shape.qkv_stride(), x.qkv, k_head);
  const Rows<const T> values = rows(shape.qkv_stride(), x.qkv, k_head + shape.kv_heads);
  const Rows<const T> douts = rows(shape.out_stride(), x.dout, head);

  SharedMemory memory;
  const SharedTile<T, kHead> q(memory, Cut::kRows, "q"), dout(memory, Cut::kRows, "dout");
  const SharedTile<T, kHead> k(memory, Cut::kBuffers * kKeys, "k"), v(memory, Cut::kBuffers * kKeys, "v");
  const int warp_first = uniform(threadIdx.x / kWarp) * 16 * R;  // the warp's queries: in the tile,
  const int first = tile.first + warp_first;                     // and in the sequence
  const int last = first + 16 * R - 1;

  load<kAccess, Cut::kRows, kThreads>(q, rows(shape.qkv_stride(), x.qkv, head), tile.first);
  load<kAccess, Cut::kRows, kThreads>(dout, douts, tile.first);
  float lse[2 * R], delta[2 * R];  // lse times log2(e)
  row_dots<R>(delta, douts, rows(shape.out_stride(), x.out, head), first);
#pragma unroll
  for (int r = 0; r < 2 * R; ++r) {
    const int row = first + Registers<R, 1>::row(r);
    const int64_t at = static_cast<int64_t>(head) * shape.tokens + tile.start + row;
    lse[r] = row < tile.length ? x.lse[at] * kLog2E : 0;
    if (row < tile.length && threadIdx.x % 4 == 0) x.delta[at] = delta[r];
  }

  Registers<R, kHead / 8> dq;
  const auto load_keys = [&](int i, int buffer) {
    load<kAccess, kKeys, kThreads>(k.from(buffer * kKeys), keys, i * kKeys);
    load<kAccess, kKeys, kThreads>(v.from(buffer * kKeys), values, i * kKeys);
  };
  const int end = min(tile.first + Cut::kRows, tile.length);
  walk<Cut::kBuffers>((end + kKeys - 1) / kKeys, load_keys, [&](int i, int buffer) {
#pragma unroll 1
    for (int pass = 0; pass < kKeys; pass += kPass) {
      const int key = i * kKeys + pass, row = buffer * kKeys + pass;
      if (key > last || first >= tile.length) break;
      Registers<R, kPass / 8> p, ds;
      add_abt(p, q.from(warp_first), k.from(row));
      p.for_each([&](int r, int, float& s) { s = exp2_approx(fmaf(s, x.scale_log2e, -lse[r])); });
      if (key + kPass - 1 > first) set_above_diagonal(p, first, key, 0);
      ds.for_each([&](int r, int, float& dp) { dp = -delta[r]; });
      add_abt(ds, dout.from(warp_first), v.from(row));
      multiply(ds, p);
      add_ab(dq, ds, k.from(row));
    }
  });

  float factor[2 * R];
#pragma unroll
  for (int r = 0; r < 2 * R; ++r) factor[r] = x.scale;
  store(rows_of(x.dqkv, shape.qkv_stride(), tile.start, tile.length, head, shape.d), first, dq, factor);
}

template <class T, int kHead, int kAccess, class Cut>
__global__ void __launch_bounds__(Cut::kThreads, Cut::kBlocks)
    dkv_kernel(Operands<T> x, AttentionShape shape, TileList tiles) {
  constexpr int kThreads = Cut::kThreads, kQueries = kColumns<T>, R = Cut::kRowTiles;
  constexpr int kPass = kQueries / R;  // queries whose Sᵀ and dPᵀ are in registers at a time
  const auto [tile, kv_head] = block_work(tiles, shape.kv_heads);
  if (tile.empty()) return;
  const auto rows = [&](auto tensor, int stride, int h) {
    return rows_of(tensor, stride, tile.start, tile.length, h, shape.d);
  };
  const int k_head = shape.heads + kv_head, v_head = k_head + shape.kv_heads;

  SharedMemory memory;
  const SharedTile<T, kHead> k(memory, Cut::kRows, "k"), v(memory, Cut::kRows, "v");
  const SharedTile<T, kHead> q(memory, Cut::kBuffers * kQueries, "q"), dout(memory, Cut::kBuffers * kQueries, "dout");
  const auto lse = memory.take<float>(Cut::kBuffers * kQueries, "lse");
  const auto delta = memory.take<float>(Cut::kBuffers * kQueries, "delta");
  const int warp_first = uniform(threadIdx.x / kWarp) * 16 * R;  // the warp's keys: in the tile,
  const int first = tile.first + warp_first;                     // and in the sequence
  load<kAccess, Cut::kRows, kThreads>(k, rows(x.qkv, shape.qkv_stride(), k_head), tile.first);
  load<kAccess, Cut::kRows, kThreads>(v, rows(x.qkv, shape.qkv_stride(), v_head), tile.first);

  // The queries that attend to any of the keys begin with the tile's own tokens. The heads of the group follow one
  // another.
  const int query_tiles = (tile.length - tile.first + kQueries - 1) / kQueries;
  const auto load_queries = [&](int i, int buffer) {
    const int head = kv_head * shape.group() + i / query_tiles, query = tile.first + i % query_tiles * kQueries;
    load<kAccess, kQueries, kThreads>(q.from(buffer * kQueries), rows(x.qkv, shape.qkv_stride(), head), query);
    load<kAccess, kQueries, kThreads>(dout.from(buffer * kQueries), rows(x.dout, shape.out_stride(), head), query);
    if (threadIdx.x < kQueries) {
      const int64_t at = static_cast<int64_t>(head) * shape.tokens + tile.start + query + threadIdx.x;
      const int to = buffer * kQueries + threadIdx.x;
      const bool valid = query + static_cast<int>(threadIdx.x) < tile.length;
      cp_async<4>(lse + to, x.lse + at, valid);
      cp_async<4>(delta + to, Global<const float>(x.delta) + at, valid);
    }
  };
  Registers<R, kHead / 8> dk, dv;
  walk<Cut::kBuffers>(shape.group() * query_tiles, load_queries, [&](int i, int buffer) {
#pragma unroll 1
    for (int pass = 0; pass < kQueries; pass += kPass) {
      const int query = tile.first + i % query_tiles * kQueries + pass, row = buffer * kQueries + pass;
      if (query + kPass - 1 < first || query >= tile.length || first >= tile.length) continue;
      // Past the last query, q, dout, lse, and delta are all 0, and nothing is added.
      Registers<R, kPass / 8> p, ds;
      add_abt(p, k.from(warp_first), q.from(row));
      p.for_each(
          [&](int, int column, float& s) { s = exp2_approx(fmaf(s, x.scale_log2e, -kLog2E * lse[row + column])); });
      if (query < first + 16 * R - 1) set_below_diagonal(p, first, query, 0);
      add_ab(dv, p, dout.from(row));
      ds.for_each([&](int, int column, float& dp) { dp = -delta[row + column]; });
      add_abt(ds, v.from(warp_first), dout.from(row));
      multiply(ds, p);
      add_ab(dk, ds, q.from(row));
    }
  });

  float factor[2 * R], one[2 * R];
#pragma unroll
  for (int r = 0; r < 2 * R; ++r) {
    factor[r] = x.scale;
    one[r] = 1;
  }
  store(rows(x.dqkv, shape.qkv_stride(), k_head), first, dk, factor);
  store(rows(x.dqkv, shape.qkv_stride(), v_head), first, dv, one);
}

}  // namespace

void attention_backward(const AttentionBackward& args, const Launcher& on) {
  const AttentionShape shape = attention_shape(args.qkv, args.num_heads, args.num_kv_heads, on.op);
  with_head_size(args.qkv.dtype, shape.d, [&]<class T, int kHead>(T, Constant<kHead>) {
    using C = Cuts<T, kHead>;
    const int reserved = 1024;  // bytes of shared memory that the system reserves per block
    const int both = 2 * (shared_bytes<T, kHead, typename C::Queries>() + reserved);
    const bool two_fit = both <= on.chip.shared_per_multiprocessor;
    const bool one_fits = shared_bytes<T, kHead, typename C::Keys>() <= on.chip.shared_per_block;
    const int query_rows = two_fit ? C::Queries::kRows : C::QueriesSmall::kRows;
    const int key_rows = one_fits ? C::Keys::kRows : C::KeysSmall::kRows;

    const size_t query_bytes = tile_list_bytes(most_tiles(shape.tokens, args.cu_seqlens, query_rows));
    const size_t key_bytes = tile_list_bytes(most_tiles(shape.tokens, args.cu_seqlens, key_rows));
    char* const workspace = static_cast<char*>(on.workspace(query_bytes + key_bytes));
    const TileList queries = cut_sequences(args.cu_seqlens, shape.tokens, query_rows, Work::rises, workspace, on);
    if (shape.tokens == 0) return;
    const TileList keys =
        cut_sequences(args.cu_seqlens, shape.tokens, key_rows, Work::falls, workspace + query_bytes, on);

    const float scale = static_cast<float>(args.scale);
    const Operands<T> x = {global<T>(args.dqkv),
                           global<float>(args.delta),
                           global<const T>(args.dout),
                           global<const T>(args.out),
                           global<const float>(args.lse),
                           global<const T>(args.qkv),
                           scale,
                           scale * kLog2E};
    const auto run = [&]<class Cut>(Cut, auto kernel, const TileList& tiles, int heads) {
      launch(on, kernel, block_count(tiles, heads), Cut::kThreads, shared_bytes<T, kHead, Cut>(), x, shape, tiles);
    };
    with_access<kHead>(shape.d, {&args.qkv, &args.dout}, [&]<int kAccess>(Constant<kAccess>) {
      const auto run_dq = [&]<class Cut>(Cut cut) {
        run(cut, dq_kernel<T, kHead, kAccess, Cut>, queries, shape.heads);
      };
      const auto run_dkv = [&]<class Cut>(Cut cut) {
        run(cut, dkv_kernel<T, kHead, kAccess, Cut>, keys, shape.kv_heads);
      };
      two_fit ? run_dq(typename C::Queries{}) : run_dq(typename C::QueriesSmall{});
      one_fits ? run_dkv(typename C::Keys{}) : run_dkv(typename C::KeysSmall{});
    });
  });
}

}  // namespace openalpaca::cuda
