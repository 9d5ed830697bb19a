// The key/value cache: writing to it, and attention of one new token per sequence over it.
//
// Each token has its own query, so the only reuse is of a cache row by the query heads that share it: the cost is one
// pass over the cache at memory speed. The cache is split into chunks of kChunk positions (Flash-Decoding, Dao et al.
// 2023). A task is a chunk of a sequence for enough key/value heads that its rows are long enough for the hardware
// prefetcher. Each chunk has its own softmax; the parts are then combined in order. So one long sequence keeps all
// threads busy, and the result does not depend on their number.
#include <omp.h>

#include <cstring>

#include "cpu/ops/attention.h"
#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/scratch.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

constexpr int kChunk = 64;
constexpr int kRowBytes = 2048;  // bytes of a cache row that a task reads
constexpr int kUnroll = 4;       // rows at a time
static_assert(kChunk % kLanes == 0 && kLanes % kUnroll == 0);

// A query head's softmax over one chunk: the largest score, and Σ exp2(score − max). Scores are scaled by log2(e).
struct Part {
  float max, sum;
};

template <class T>
struct Chunk {
  const T* q;        // [heads, d]
  const T *k, *v;    // [count, …], rows `stride` elements apart, starting at the first of the key/value heads
  int heads, group;  // query heads, and the number that share a key/value head
  int count, d;
  int64_t stride;
  float scale;
  float* outs;  // [heads, …, d], `next` rows of ldo elements apart, to be divided by the sum
  Part* parts;  // [heads, …]
  int64_t next, ldo;

  int words() const { return d / kPack<T>; }
  int ldw() const { return round_up(words(), kLanes); }
  int64_t workspace() const { return heads * (ldw() + kChunk + kLanes * kLanes); }

  // Past the end the last row is repeated; its score is set to −∞ and its weight to 0.
  void rows(const T* (&rows)[kUnroll], const T* first, int at) const {
    for (int r = 0; r < kUnroll; ++r) rows[r] = first + (at + r < count ? at + r : count - 1) * stride;
  }

  void run(float* memory) const {
    Word* queries = memory;
    float* scores = queries + heads * ldw();
    pack_rows(queries, q, d, heads, heads, d);
    score(scores, queries, scores + heads * kChunk);
    for (int h = 0; h < heads; ++h) {
      parts[h * next] = exponentiate(scores + h * kChunk);
      std::memset(outs + h * next * ldo, 0, ldo * sizeof(float));
    }
    add_values(scores);
  }

  // scores[h, i] = scale · q[h] · k[i]. The products of kLanes rows are summed over their lanes together.
  void score(float* scores, const Word* queries, float* products) const {
    for (int at = 0; at < count; at += kLanes) {
      for (int i = 0; i < kLanes; i += kUnroll) {
        const T* row[kUnroll];
        rows(row, k, at + i);
        for (int h = 0; h < heads; ++h) {
          Vec sums[kUnroll] = {};
          for_each_vec(words(), [&](int64_t w, int n) {
            const Vec query = load(queries + h * ldw() + w);  // zeros past its last word
            for (int r = 0; r < kUnroll; ++r) {
              sums[r] = multiply_add<T>(sums[r], query, row_words(row[r] + h / group * d, w, n));
            }
          });
          for (int r = 0; r < kUnroll; ++r) store(products + (h * kLanes + i + r) * kLanes, sums[r]);
        }
      }
      for (int h = 0; h < heads; ++h) {
        Vec sums[kLanes];
        for (int i = 0; i < kLanes; ++i) sums[i] = load(products + (h * kLanes + i) * kLanes);
        const Vec score = sum_rows(sums) * scale;
        store(scores + h * kChunk + at, lane_index() < count - at ? score : splat(-__builtin_inff()));
      }
    }
  }

  // Replaces a head's scores by exp2(score − max).
  Part exponentiate(float* scores) const {
    Vec largest = splat(-__builtin_inff()), sums = {};
    for (int i = 0; i < count; i += kLanes) largest = max(largest, load(scores + i));
    const float m = max(largest);
    for (int i = 0; i < count; i += kLanes) {
      const Vec p = exp2(load(scores + i) - m);
      store(scores + i, p);
      sums += p;
    }
    return {m, sum(sums)};
  }

  // outs[h] += Σ p[h, i] · v[i]
  void add_values(const float* p) const {
    for (int at = 0; at < count; at += kUnroll) {
      const T* row[kUnroll];
      rows(row, v, at);
      for (int h = 0; h < heads; h += group) {
        for_each_vec(d, [&](int64_t i, int n) {
          Vec values[kUnroll];
          for (int r = 0; r < kUnroll; ++r) values[r] = load(row[r] + h / group * d + i, n);
          for (int member = h; member < h + group; ++member) {
            float* out = outs + member * next * ldo + i;
            Vec sum = load(out);
            for (int r = 0; r < kUnroll; ++r) sum += p[member * kChunk + at + r] * values[r];
            store(out, sum);
          }
        });
      }
    }
  }
};

// The softmax over all chunks. Each chunk is weighted by exp2(its max − the largest max), which replaces its max.
template <class T>
void combine(T* out, const float* outs, int64_t ldo, Part* parts, int64_t chunks, int d) {
  float largest = parts[0].max, denominator = 0;
  for (int64_t c = 1; c < chunks; ++c) largest = parts[c].max > largest ? parts[c].max : largest;
  for (int64_t c = 0; c < chunks; ++c) {
    parts[c].max = exp2(splat(parts[c].max - largest))[0];
    denominator += parts[c].max * parts[c].sum;
  }
  for_each_vec(d, [&](int64_t i, int n) {
    Vec sum = {};
    for (int64_t c = 0; c < chunks; ++c) sum += parts[c].max * load(outs + c * ldo + i);
    store(out + i, sum / denominator, n);
  });
}

}  // namespace

void kv_cache_write(const KvCacheWrite& args) {
  const int64_t tokens = args.qkv.shape[0], batch = args.k_cache.shape[0], length = args.k_cache.shape[1];
  const int32_t *sequences = args.sequences.data<int32_t>(), *positions = args.positions.data<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    if (sequences[t] < 0) continue;
    check_indices(KvCacheWrite::name, "sequence", sequences + t, 1, batch);
    check_indices(KvCacheWrite::name, "position", positions + t, 1, length);
  }
  const int64_t size = size_of(args.qkv.dtype), d = args.qkv.shape[2], row = args.num_kv_heads * d * size;
  const int64_t stride = args.num_heads * d * size + 2 * row;
  const char* k = args.qkv.data<char>() + args.num_heads * d * size;
  char *k_cache = args.k_cache.data<char>(), *v_cache = args.v_cache.data<char>();
#pragma omp parallel if (tokens * row > kParallelElements * size)
  {
    // Each thread writes a range of columns, token by token: if two tokens have the same position, the later one wins.
    const int64_t lines = (row + 63) / 64, threads = omp_get_num_threads(), thread = omp_get_thread_num();
    const int64_t begin = lines * thread / threads * 64;
    const int64_t end = thread + 1 < threads ? lines * (thread + 1) / threads * 64 : row;
    for (int64_t t = 0; t < tokens; ++t) {
      if (sequences[t] < 0) continue;
      const int64_t place = (sequences[t] * length + positions[t]) * row;
      std::memcpy(k_cache + place + begin, k + t * stride + begin, end - begin);
      std::memcpy(v_cache + place + begin, k + t * stride + row + begin, end - begin);
    }
  }
}

void attention_decode(const AttentionDecode& args) {
  const int64_t batch = args.qkv.shape[0], length = args.k_cache.shape[1];
  const int64_t heads = args.num_heads, kv_heads = args.num_kv_heads, group = heads / kv_heads;
  const int d = static_cast<int>(args.qkv.shape[2]);
  const int32_t* positions = args.positions.data<int32_t>();
  check_indices(AttentionDecode::name, "position", positions, batch, length);
  check_head_size(AttentionDecode::name, d);
  int64_t chunks = 0, numbers = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t count = positions[b] / kChunk + 1;
    chunks = count > chunks ? count : chunks;
    numbers += 2 * (positions[b] + 1) * kv_heads * d;
  }

  dispatch(args.qkv.dtype, [&]<class T>() {
    const T *qkv = args.qkv.data<T>(), *k_cache = args.k_cache.data<T>(), *v_cache = args.v_cache.data<T>();
    T* out = args.out.data<T>();
    const int64_t row_heads = kRowBytes / (d * static_cast<int64_t>(sizeof(T)));
    const int64_t slice = row_heads < 1 ? 1 : row_heads < kv_heads ? row_heads : kv_heads;  // key/value heads per task
    const int64_t slices = (kv_heads + slice - 1) / slice;
    Chunk<T> whole = {};
    whole.heads = static_cast<int>(slice * group);
    whole.group = static_cast<int>(group);
    whole.d = d;
    whole.stride = kv_heads * d;
    whole.scale = static_cast<float>(args.scale) * kLog2E;
    whole.next = chunks;
    whole.ldo = round_up(d, kLanes);

    const int threads = omp_get_max_threads();
    Carver sizes(nullptr);
    const auto carve = [&](Carver& memory) {
      whole.outs = memory.take(batch * heads * chunks * whole.ldo);  // [batch, heads, chunks, ldo]
      whole.parts = reinterpret_cast<Part*>(memory.take(batch * heads * chunks * 2));
      return memory.take(threads * round_up(whole.workspace(), 16));
    };
    carve(sizes);
    Carver memory(scratch(sizes.used()));
    float* workspaces = carve(memory);
#pragma omp parallel if (numbers > kParallelElements)
    {
      float* workspace = workspaces + omp_get_thread_num() * round_up(whole.workspace(), 16);
#pragma omp for schedule(dynamic, 1)
      for (int64_t i = 0; i < batch * chunks * slices; ++i) {
        const int64_t kv_head = i % slices * slice, chunk = i / slices % chunks, b = i / slices / chunks;
        const int64_t first = chunk * kChunk, left = positions[b] + 1 - first, head = kv_head * group;
        if (left <= 0) continue;
        const int64_t place = (b * length + first) * whole.stride + kv_head * d;
        Chunk<T> task = whole;
        task.q = qkv + (b * (heads + 2 * kv_heads) + head) * d;
        task.k = k_cache + place;
        task.v = v_cache + place;
        task.heads = static_cast<int>(heads - head < whole.heads ? heads - head : whole.heads);
        task.count = static_cast<int>(left < kChunk ? left : kChunk);
        task.parts += (b * heads + head) * chunks + chunk;
        task.outs += ((b * heads + head) * chunks + chunk) * whole.ldo;
        task.run(workspace);
      }
#pragma omp for schedule(static)
      for (int64_t row = 0; row < batch * heads; ++row) {
        combine(out + row * d, whole.outs + row * chunks * whole.ldo, whole.ldo, whole.parts + row * chunks,
                positions[row / heads] / kChunk + 1, d);
      }
    }
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
