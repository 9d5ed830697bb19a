// Attention, forward: FlashAttention (Dao et al., arXiv:2205.14135) on vector registers.
//
// A block of queries iterates over the key blocks that it attends to. Scores are computed transposed, Sᵀ = K Qᵀ, with
// one lane per query: the running maximum and sum of the online softmax (Milakov & Gimelshein, arXiv:1805.02867) are
// then plain vectors, no sum crosses lanes, and Pᵀ comes out as the right operand of Oᵀ += Vᵀ Pᵀ. Scores are scaled by
// log2(e), so that a probability is one exp2. A task is a query block of one head; no sum crosses tasks, so the result
// does not depend on the number of threads.
#include "cpu/ops/attention.h"

#include <omp.h>

#include "cpu/ops/dtypes.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/scratch.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

template <class T>
class QueryBlock {
 public:
  QueryBlock(Carver& memory, int d, float scale)
      : d_(d), words_(d / kPack<T>), ldw_(round_up(words_, kLanes)), ldd_(round_up(d, kLanes)), scale_(scale) {
    q_ = memory.take(words_ * kBlock);
    k_ = memory.take(ldw_ * kBlock);
    v_ = memory.take(ldd_ * kBlock / kPack<T>);
    p_ = memory.take(kBlock * kBlock / kPack<T>);
    scores_ = memory.take(kBlock * kBlock);
    out_ = memory.take(ldd_ * kBlock);
    max_ = memory.take(kBlock);
    sum_ = memory.take(kBlock);
    factor_ = memory.take(kBlock);
  }

  void begin(const T* q, int64_t stride, int count) {
    count_ = count;
    lanes_ = round_up(count, kBand);
    pack_transposed(q_, kBlock, q, stride, count, lanes_, d_);
    std::memset(out_, 0, ldd_ * kBlock * sizeof(float));
    for (int i = 0; i < lanes_; i += kLanes) {
      store(max_ + i, splat(-__builtin_inff()));
      store(sum_ + i, Vec{});
    }
  }

  // Accumulates a block of keys and values. On the diagonal its tokens are those of the queries.
  void attend(const T* k, const T* v, int64_t stride, bool diagonal) {
    const int keys = diagonal ? count_ : kBlock, padded = round_up(keys, kBand);
    pack_rows(k_, k, stride, keys, padded, d_);
    pack_pairs(v_, v, stride, keys, padded, d_);
    for_each_rectangle(diagonal, lanes_, [&](Rectangle r) {
      product<T>(scores_ + r.key * kBlock + r.query, kBlock, r.keys, r.queries, {k_ + r.key * ldw_, ldw_, 1},
                 q_ + r.query, kBlock, words_, false);
    });
    if (update_maximum(diagonal)) rescale();
    for_each_rectangle(diagonal, lanes_, [&](Rectangle r) {
      exponentiate(r, diagonal);
      product<T>(out_ + r.query, kBlock, round_up(d_, kRows), r.queries, {v_ + r.key / kPack<T> * ldd_, 1, ldd_},
                 p_ + r.key / kPack<T> * kBlock + r.query, kBlock, r.keys / kPack<T>, true);
    });
  }

  void end(T* out, int64_t stride, float* lse) {
    for (int i = 0; i < lanes_; i += kLanes) store(factor_ + i, 1.0f / load(sum_ + i));
    unpack_transposed(out, stride, out_, kBlock, factor_, count_, d_);
    for (int i = 0; i < count_; ++i) lse[i] = kLn2 * (max_[i] + __builtin_log2f(sum_[i]));
  }

 private:
  // Updates the maximum over all keys so far, and sets factor_ to the rescaling of earlier sums; returns true if it is
  // not 1.
  bool update_maximum(bool diagonal) {
    VecI changed = {};
    for (int i = 0; i < lanes_; i += kLanes) {
      const Vec old = load(max_ + i);
      Vec m = old;
      const int keys = diagonal ? round_up(i + 1, kBand) : kBlock;
      for (int key = 0; key < keys; ++key) {
        const Vec score = load(scores_ + key * kBlock + i) * scale_;
        m = max(m, diagonal && key > i ? causal(score, key, i, -__builtin_inff()) : score);
      }
      store(max_ + i, m);
      store(factor_ + i, exp2(old - m));
      changed |= old != m;
    }
    int32_t any = 0;
    for (int i = 0; i < kLanes; ++i) any |= changed[i];
    return any;
  }

  void rescale() {
    for (int i = 0; i < lanes_; i += kLanes) {
      const Vec factor = load(factor_ + i);
      store(sum_ + i, load(sum_ + i) * factor);
      for (int j = 0; j < d_; ++j) store(out_ + j * kBlock + i, load(out_ + j * kBlock + i) * factor);
    }
  }

  void exponentiate(Rectangle r, bool diagonal) {
    for (int i = r.query; i < r.query + r.queries; i += kLanes) {
      const Vec m = load(max_ + i);
      Vec sum = load(sum_ + i);
      for (int key = r.key; key < r.key + r.keys; key += kPack<T>) {
        Vec p[kPack<T>];
        for (int j = 0; j < kPack<T>; ++j) {
          p[j] = exp2(load(scores_ + (key + j) * kBlock + i) * scale_ - m);
          if (diagonal && key + j > i) p[j] = causal(p[j], key + j, i, 0);
          sum += p[j];
        }
        store(p_ + key / kPack<T> * kBlock + i, pair_up<T>(p[0], p[kPack<T> - 1]));
      }
      store(sum_ + i, sum);
    }
  }

  int d_, words_, ldw_, ldd_;
  float scale_;
  int count_ = 0, lanes_ = 0;  // queries in the block, and that rounded up to whole bands
  Word *q_, *k_, *v_, *p_;
  float *scores_, *out_;         // Sᵀ [key, query] and Oᵀ [d, query], kBlock queries a row
  float *max_, *sum_, *factor_;  // per query
};

}  // namespace

void attention_forward(const AttentionForward& args) {
  const int64_t tokens = args.qkv.shape[0], heads = args.num_heads, kv_heads = args.num_kv_heads;
  const int d = static_cast<int>(args.qkv.shape[2]);
  const int32_t* cu_seqlens = args.cu_seqlens.data<int32_t>();
  const int64_t cu_count = args.cu_seqlens.shape[0];
  check_cu_seqlens(AttentionForward::name, cu_seqlens, cu_count, tokens);
  check_head_size(AttentionForward::name, d);
  const int64_t block_count = cut_sequences(nullptr, cu_seqlens, cu_count);
  const int64_t qkv_stride = (heads + 2 * kv_heads) * d, out_stride = heads * d;

  dispatch(args.qkv.dtype, [&]<class T>() {
    Carver size(nullptr);
    QueryBlock<T>(size, d, 0);
    const size_t table_bytes = (block_count * sizeof(Block) + 63) / 64 * 64;
    char* memory = static_cast<char*>(scratch(table_bytes + omp_get_max_threads() * size.used()));
    Block* blocks = reinterpret_cast<Block*>(memory);
    cut_sequences(blocks, cu_seqlens, cu_count);
    const T* qkv = args.qkv.data<T>();
    T* out = args.out.data<T>();
    float* lse = args.lse.data<float>();
#pragma omp parallel
    {
      Carver mine(memory + table_bytes + omp_get_thread_num() * size.used());
      QueryBlock<T> queries(mine, d, static_cast<float>(args.scale) * kLog2E);
#pragma omp for schedule(dynamic, 1) nowait
      for (int64_t task = 0; task < heads * block_count; ++task) {
        const auto [block, head] = task_at(blocks, heads, task);
        const T* q = qkv + block.token() * qkv_stride + head * d;
        const T* k = qkv + block.sequence.start * qkv_stride + (heads + head / (heads / kv_heads)) * d;
        const T* v = k + kv_heads * d;
        queries.begin(q, qkv_stride, block.count());
        for (int i = 0; i <= block.index; ++i, k += kBlock * qkv_stride, v += kBlock * qkv_stride) {
          queries.attend(k, v, qkv_stride, i == block.index);
        }
        queries.end(out + block.token() * out_stride + head * d, out_stride, lse + head * tokens + block.token());
      }
    }
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
