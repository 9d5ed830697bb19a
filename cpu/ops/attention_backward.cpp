// Attention, backward: FlashAttention-2 (Dao, arXiv:2307.08691), in the transposed form of attention.cpp.
//
// For a tile, Sᵀ = K Qᵀ and dPᵀ = V dOᵀ are computed a few keys at a time and immediately turned into Pᵀ and dSᵀ, for
//   dV += Pᵀ dO;  dK += dSᵀ Q;  dQᵀ += Kᵀ dSᵀ
// so that no operand is transposed inside the loop. The tiles can be traversed in two ways. In the first, a task is a
// sequence and a key/value head, and computes all three gradients from each tile. If that yields too few tasks for the
// threads, the second makes two passes over blocks, first of keys and then of queries, and computes each tile twice:
// seven products instead of five. Both add the same tiles in the same order, so their results are bitwise identical.
#include <omp.h>

#include "cpu/ops/attention.h"
#include "cpu/ops/dtypes.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/scratch.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

struct Shape {
  int64_t tokens, heads, kv_heads;
  int d;
  int64_t group() const { return heads / kv_heads; }
  int64_t stride() const { return (heads + 2 * kv_heads) * d; }  // of a token in qkv and dqkv
  int64_t out_stride() const { return heads * d; }
};

template <class T>
struct Pointers {
  const T *qkv, *dout;
  T* dqkv;
  const float *lse, *delta;
};

// One thread's buffers, and its operations on a tile.
template <class T>
class Tiles {
 public:
  // Holds `slots` query blocks at once, and the sums of kv_slots key blocks.
  Tiles(Carver& memory, const Shape& shape, float scale, int slots, int kv_slots)
      : shape_(shape),
        d_(shape.d),
        words_(d_ / kPack<T>),
        ldw_(round_up(words_, kLanes)),
        ldd_(round_up(d_, kLanes)),
        scale_(scale) {
    k_rows_ = memory.take(ldw_ * kBlock);
    v_rows_ = memory.take(ldw_ * kBlock);
    k_pairs_ = memory.take(ldd_ * kBlock / kPack<T>);
    scores_ = memory.take(kRows * kBlock);
    dp_ = memory.take(kRows * kBlock);
    p_rows_ = memory.take(kBlock * kBlock / kPack<T>);
    ds_rows_ = memory.take(kBlock * kBlock / kPack<T>);
    ds_pairs_ = kPack<T> == 1 ? ds_rows_ : memory.take(kBlock * kBlock / kPack<T>);
    factor_ = memory.take(kBlock);
    q_size_ = words_ * kBlock;
    pairs_size_ = ldd_ * kBlock / kPack<T>;
    sums_size_ = ldd_ * kBlock;
    q_ = memory.take(slots * q_size_);
    dout_ = memory.take(slots * q_size_);
    q_pairs_ = memory.take(slots * pairs_size_);
    dout_pairs_ = memory.take(slots * pairs_size_);
    lse_ = memory.take(slots * kBlock);
    delta_ = memory.take(slots * kBlock);
    dq_ = memory.take(slots * sums_size_);
    dk_ = memory.take(kv_slots * sums_size_);
    dv_ = memory.take(kv_slots * sums_size_);
  }

  void load_keys(const Pointers<T>& x, const Block& block, int64_t kv_head) {
    const int64_t token = block.token();
    const T* k = x.qkv + token * shape_.stride() + (shape_.heads + kv_head) * d_;
    const T* v = k + shape_.kv_heads * d_;
    const int n = block.count(), padded = round_up(n, kBand);
    pack_rows(k_rows_, k, shape_.stride(), n, padded, d_);
    pack_rows(v_rows_, v, shape_.stride(), n, padded, d_);
    pack_pairs(k_pairs_, k, shape_.stride(), n, padded, d_);
  }

  void load_queries(const Pointers<T>& x, const Block& block, int64_t head, int slot) {
    const int64_t token = block.token();
    const T* q = x.qkv + token * shape_.stride() + head * d_;
    const T* dout = x.dout + token * shape_.out_stride() + head * d_;
    const int n = block.count(), padded = round_up(n, kBand);
    pack_transposed(q_ + slot * q_size_, kBlock, q, shape_.stride(), n, padded, d_);
    pack_transposed(dout_ + slot * q_size_, kBlock, dout, shape_.out_stride(), n, padded, d_);
    pack_pairs(q_pairs_ + slot * pairs_size_, q, shape_.stride(), n, padded, d_);
    pack_pairs(dout_pairs_ + slot * pairs_size_, dout, shape_.out_stride(), n, padded, d_);
    const float* lse = x.lse + head * shape_.tokens + token;
    const float* delta = x.delta + head * shape_.tokens + token;
    for (int i = 0; i < padded; ++i) {  // the probabilities of padding are zero
      lse_[slot * kBlock + i] = i < n ? lse[i] * kLog2E : __builtin_inff();
      delta_[slot * kBlock + i] = i < n ? delta[i] : 0;
    }
  }

  void clear_dq(int slot) { std::memset(dq_ + slot * sums_size_, 0, sums_size_ * sizeof(float)); }
  void clear_dkv(int slot) {
    std::memset(dk_ + slot * sums_size_, 0, sums_size_ * sizeof(float));
    std::memset(dv_ + slot * sums_size_, 0, sums_size_ * sizeof(float));
  }

  // Adds the tile of the loaded keys and a slot's queries to the requested sums: dk and dv, dq, or all three.
  template <bool keys, bool queries>
  void add(const Block& query_block, const Block& key_block, int slot, int kv_slot) {
    const bool diagonal = query_block.index == key_block.index;
    const Word *q_pairs = q_pairs_ + slot * pairs_size_, *dout_pairs = dout_pairs_ + slot * pairs_size_;
    for_each_rectangle(diagonal, round_up(query_block.count(), kBand), [&](Rectangle r) {
      for (int key = r.key; key < r.key + r.keys; key += kRows) differentiate(key, r.query, r.queries, slot, diagonal);
      if constexpr (keys) {
        float* dk = dk_ + kv_slot * sums_size_ + r.key * ldd_;
        float* dv = dv_ + kv_slot * sums_size_ + r.key * ldd_;
        constexpr int row = kBlock / kPack<T>;
        const int64_t at = r.key * row + r.query / kPack<T>, from = r.query / kPack<T> * ldd_;
        product<T>(dv, ldd_, r.keys, ldd_, {p_rows_ + at, row, 1}, dout_pairs + from, ldd_, r.queries / kPack<T>, true);
        product<T>(dk, ldd_, r.keys, ldd_, {ds_rows_ + at, row, 1}, q_pairs + from, ldd_, r.queries / kPack<T>, true);
      }
      if constexpr (queries) {
        product<T>(dq_ + slot * sums_size_ + r.query, kBlock, round_up(d_, kRows), r.queries,
                   {k_pairs_ + r.key / kPack<T> * ldd_, 1, ldd_}, ds_pairs_ + r.key / kPack<T> * kBlock + r.query,
                   kBlock, r.keys / kPack<T>, true);
      }
    });
  }

  void store_dkv(const Pointers<T>& x, const Block& block, int64_t kv_head, int slot) {
    T* dk = x.dqkv + block.token() * shape_.stride() + (shape_.heads + kv_head) * d_;
    T* dv = dk + shape_.kv_heads * d_;
    for (int i = 0; i < block.count(); ++i) {
      const float *dk_sum = dk_ + slot * sums_size_ + i * ldd_, *dv_sum = dv_ + slot * sums_size_ + i * ldd_;
      for_each_vec(d_, [&](int64_t j, int count) {
        store(dk + i * shape_.stride() + j, load(dk_sum + j) * scale_, count);
        store(dv + i * shape_.stride() + j, load(dv_sum + j), count);
      });
    }
  }

  void store_dq(const Pointers<T>& x, const Block& block, int64_t head, int slot) {
    for (int i = 0; i < kBlock; ++i) factor_[i] = scale_;
    unpack_transposed(x.dqkv + block.token() * shape_.stride() + head * d_, shape_.stride(), dq_ + slot * sums_size_,
                      kBlock, factor_, block.count(), d_);
  }

 private:
  // Computes Pᵀ and dSᵀ of kRows keys.
  void differentiate(int key, int query, int queries, int slot, bool diagonal) {
    product<T>(scores_, kBlock, kRows, queries, {k_rows_ + key * ldw_, ldw_, 1}, q_ + slot * q_size_ + query, kBlock,
               words_, false);
    product<T>(dp_, kBlock, kRows, queries, {v_rows_ + key * ldw_, ldw_, 1}, dout_ + slot * q_size_ + query, kBlock,
               words_, false);
    for (int i = 0; i < queries; i += kLanes) {
      const Vec lse = load(lse_ + slot * kBlock + query + i), delta = load(delta_ + slot * kBlock + query + i);
      for (int r = 0; r < kRows; r += kPack<T>) {
        Vec ds[kPack<T>];
        for (int j = 0; j < kPack<T>; ++j) {
          const int64_t at = (r + j) * kBlock + i;
          Vec p = exp2(load(scores_ + at) * (scale_ * kLog2E) - lse);
          if (diagonal && key + r + j > query + i) p = causal(p, key + r + j, query + i, 0);
          ds[j] = p * (load(dp_ + at) - delta);
          const int64_t to = (key + r + j) * kBlock + query + i;
          store(reinterpret_cast<Packed<T>*>(p_rows_) + to, p);
          store(reinterpret_cast<Packed<T>*>(ds_rows_) + to, ds[j]);
        }
        if constexpr (kPack<T> == 2) store(ds_pairs_ + (key + r) / 2 * kBlock + query + i, pair_up<T>(ds[0], ds[1]));
      }
    }
  }

  const Shape shape_;
  const int d_, words_, ldw_, ldd_;
  const float scale_;
  int64_t q_size_, pairs_size_, sums_size_;   // words of a slot
  Word *k_rows_, *v_rows_, *k_pairs_;         // the loaded keys and values
  Word *q_, *dout_, *q_pairs_, *dout_pairs_;  // slots of queries
  float *lse_, *delta_;                       // slots of queries; lse times log2(e)
  float *scores_, *dp_;                       // Sᵀ and dPᵀ, for kRows keys
  Word *p_rows_, *ds_rows_, *ds_pairs_;       // Pᵀ and dSᵀ of the tile
  float *dq_, *dk_, *dv_;                     // slots of sums: dQᵀ [d, query], dK and dV [key, d]
  float* factor_;
};

// delta[h, t] = dout[t, h] · out[t, h], the mean that the softmax's gradient subtracts.
template <class T>
void write_deltas(float* delta, const T* dout, const T* out, const Shape& shape) {
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < shape.tokens; ++t) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t at = t * shape.out_stride() + h * shape.d;
      Vec products = {};
      for_each_vec(shape.d,
                   [&](int64_t i, int count) { products += load(dout + at + i, count) * load(out + at + i, count); });
      delta[h * shape.tokens + t] = sum(products);
    }
  }
}

// One task of the first way: a whole sequence for one key/value head.
template <class T>
void differentiate_sequence(Tiles<T>& tiles, const Pointers<T>& x, const Sequence& sequence, int64_t kv_head,
                            int64_t group) {
  for (int64_t member = 0; member < group; ++member) {
    const int64_t head = kv_head * group + member;
    for (int i = 0; i < sequence.blocks(); ++i) {
      tiles.load_queries(x, sequence.block(i), head, i);
      tiles.clear_dq(i);
    }
    for (int j = 0; j < sequence.blocks(); ++j) {
      const int kv_slot = group == 1 ? 0 : j;
      if (member == 0) tiles.clear_dkv(kv_slot);
      tiles.load_keys(x, sequence.block(j), kv_head);
      for (int i = j; i < sequence.blocks(); ++i) {
        tiles.template add<true, true>(sequence.block(i), sequence.block(j), i, kv_slot);
      }
      if (member == group - 1) tiles.store_dkv(x, sequence.block(j), kv_head, kv_slot);
    }
    for (int i = 0; i < sequence.blocks(); ++i) tiles.store_dq(x, sequence.block(i), head, i);
  }
}

// The tasks of the second way: dk and dv of a key block, or dq of a query block.
template <class T>
void differentiate_keys(Tiles<T>& tiles, const Pointers<T>& x, const Block& keys, int64_t kv_head, int64_t group) {
  tiles.clear_dkv(0);
  tiles.load_keys(x, keys, kv_head);
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int i = keys.index; i < keys.sequence.blocks(); ++i) {
      const Block queries = keys.sequence.block(i);
      tiles.load_queries(x, queries, head, 0);
      tiles.template add<true, false>(queries, keys, 0, 0);
    }
  }
  tiles.store_dkv(x, keys, kv_head, 0);
}

template <class T>
void differentiate_queries(Tiles<T>& tiles, const Pointers<T>& x, const Block& queries, int64_t head, int64_t group) {
  tiles.clear_dq(0);
  tiles.load_queries(x, queries, head, 0);
  for (int j = 0; j <= queries.index; ++j) {
    const Block keys = queries.sequence.block(j);
    tiles.load_keys(x, keys, head / group);
    tiles.template add<false, true>(queries, keys, 0, 0);
  }
  tiles.store_dq(x, queries, head, 0);
}

// Whether the first way finishes sooner: its longest queue of tasks at five products per tile, compared with an even
// share of all tiles at seven.
bool prefers_sequences(const int32_t* cu_seqlens, int64_t count, int64_t kv_heads, int threads) {
  int64_t tasks = 0, tiles = 0, longest = 0;
  for (int64_t s = 0; s + 1 < count; ++s) {
    const int64_t blocks = Sequence{cu_seqlens[s], cu_seqlens[s + 1] - cu_seqlens[s]}.blocks();
    const int64_t work = blocks * (blocks + 1) / 2;
    tasks += blocks > 0 ? kv_heads : 0;
    tiles += kv_heads * work;
    longest = work > longest ? work : longest;
  }
  if (tasks == 0) return true;
  const int64_t queue = (tasks + threads - 1) / threads * tiles / tasks;
  return 5 * (queue > longest ? queue : longest) <= 7 * ((tiles + threads - 1) / threads);
}

}  // namespace

void attention_backward(const AttentionBackward& args) {
  const Shape shape = {args.qkv.shape[0], args.num_heads, args.num_kv_heads, static_cast<int>(args.qkv.shape[2])};
  const int32_t* cu_seqlens = args.cu_seqlens.data<int32_t>();
  const int64_t cu_count = args.cu_seqlens.shape[0];
  check_cu_seqlens(AttentionBackward::name, cu_seqlens, cu_count, shape.tokens);
  check_head_size(AttentionBackward::name, shape.d);
  const int64_t block_count = cut_sequences(nullptr, cu_seqlens, cu_count), group = shape.group();
  const int threads = omp_get_max_threads();
  const bool by_sequence = prefers_sequences(cu_seqlens, cu_count, shape.kv_heads, threads);
  const float scale = static_cast<float>(args.scale);

  dispatch(args.qkv.dtype, [&]<class T>() {
    const Pointers<T> x = {args.qkv.data<T>(), args.dout.data<T>(), args.dqkv.data<T>(), args.lse.data<float>(),
                           args.delta.data<float>()};
    write_deltas(args.delta.data<float>(), x.dout, args.out.data<T>(), shape);

    int slots = 1;
    for (int64_t s = 0; by_sequence && s + 1 < cu_count; ++s) {
      const int blocks = Sequence{cu_seqlens[s], cu_seqlens[s + 1] - cu_seqlens[s]}.blocks();
      slots = blocks > slots ? blocks : slots;
    }
    const int kv_slots = group == 1 ? 1 : slots;
    Carver size(nullptr);
    Tiles<T>(size, shape, scale, slots, kv_slots);
    const size_t table_bytes = (block_count * sizeof(Block) + 63) / 64 * 64;
    char* memory = static_cast<char*>(scratch(table_bytes + threads * size.used()));
    Block* blocks = reinterpret_cast<Block*>(memory);
    cut_sequences(blocks, cu_seqlens, cu_count);
#pragma omp parallel
    {
      Carver mine(memory + table_bytes + omp_get_thread_num() * size.used());
      Tiles<T> tiles(mine, shape, scale, slots, kv_slots);
      if (by_sequence) {
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < shape.kv_heads * block_count; ++task) {
          const auto [block, head] = task_at(blocks, shape.kv_heads, task);
          if (block.index == 0) differentiate_sequence(tiles, x, block.sequence, head, group);
        }
      } else {
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < shape.kv_heads * block_count; ++task) {
          const auto [block, head] = task_at(blocks, shape.kv_heads, task);
          differentiate_keys(tiles, x, block, head, group);
        }
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t task = 0; task < shape.heads * block_count; ++task) {
          const auto [block, head] = task_at(blocks, shape.heads, task);
          differentiate_queries(tiles, x, block, head, group);
        }
      }
    }
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
