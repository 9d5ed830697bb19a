// The key/value cache: writing to it, and the attention of one new token a sequence to it.
//
// Each token has a query of its own, so nothing is reused but a cache row, by the query heads that share it: the work is
// to read the cache once, at the speed of memory. It is cut into chunks of kChunk positions (Flash-Decoding, Dao et al.
// 2023), and a chunk of a sequence and a key/value head is a task, with a softmax of its own; the parts are put together
// afterwards in their order. So one long sequence keeps every thread busy, and the result does not depend on how many
// there are.
#include <omp.h>

#include <cstring>

#include "cpu/attention.h"
#include "cpu/dtypes.h"
#include "cpu/errors.h"
#include "cpu/isa.h"
#include "cpu/loops.h"
#include "cpu/scratch.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

constexpr int kChunk = 256;
constexpr int kUnroll = 4;  // value rows added to the output at a time
static_assert(kChunk % kLanes == 0 && kLanes % kUnroll == 0);

// A query head's softmax over one chunk: the largest score, and Σ exp2(score − max). Scores are times log2(e).
struct Part {
  float max, sum;
};

// Rows of one key/value head in the cache.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
  int count;
  const T* row(int i) const { return data + (i < count ? i : count - 1) * stride; }  // past the end, the last one again
};

// scores[i] = scale · q · k[i], kLanes positions at a time, −∞ past the end. q is packed words, zeros after its last.
template <class T>
void score(float* scores, const Word* q, Rows<T> k, int words, float scale) {
  for (int first = 0; first < k.count; first += kLanes) {
    Vec products[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const T* row = k.row(first + i);
      Vec sum = {};
      for_each_vec(words, [&](int64_t w, int n) { sum = multiply_add<T>(sum, row_words(row, w, n), load(q + w)); });
      products[i] = sum;
    }
    transpose(products);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) products[i] += products[i + width];
    }
    store(scores + first, lane_index() < k.count - first ? products[0] * scale : splat(-__builtin_inff()));
  }
}

// Replaces the scores by exp2(score − max).
Part exponentiate(float* scores, int count) {
  Vec largest = splat(-__builtin_inff()), total = {};
  for (int i = 0; i < count; i += kLanes) largest = max(largest, load(scores + i));
  const float m = max(largest);
  for (int i = 0; i < count; i += kLanes) {
    const Vec p = exp2(load(scores + i) - m);
    store(scores + i, p);
    total += p;
  }
  return {m, sum(total)};
}

// out[0, d rounded up to kLanes) = Σ p[i] · v[i]; p is 0 past the end.
template <class T>
void add_values(float* out, const float* p, Rows<T> v, int d) {
  std::memset(out, 0, round_up(d, kLanes) * sizeof(float));
  for (int first = 0; first < v.count; first += kUnroll) {
    for_each_vec(d, [&](int64_t i, int n) {
      Vec sum = load(out + i);
      for (int r = 0; r < kUnroll; ++r) sum += p[first + r] * load(v.row(first + r) + i, n);
      store(out + i, sum);
    });
  }
}

// The softmax over all chunks. Each chunk counts exp2(its max − the largest max), which takes the place of its max.
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
  const int64_t tokens = args.qkv.shape[0], sequence_count = args.k_cache.shape[0], length = args.k_cache.shape[1];
  const int32_t *sequences = args.sequences.data<int32_t>(), *positions = args.positions.data<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    if (sequences[t] < 0) continue;
    check_indices(KvCacheWrite::name, "sequence", sequences + t, 1, sequence_count);
    check_indices(KvCacheWrite::name, "position", positions + t, 1, length);
  }
  const int64_t size = size_of(args.qkv.dtype), d = args.qkv.shape[2], row = args.num_kv_heads * d * size;
  const int64_t stride = args.num_heads * d * size + 2 * row;
  const char* k = args.qkv.data<char>() + args.num_heads * d * size;
  char *k_cache = args.k_cache.data<char>(), *v_cache = args.v_cache.data<char>();
#pragma omp parallel if (tokens * row > kParallelElements * size)
  {
    // A thread writes a range of columns, token after token: where two tokens have one place, the later one stays.
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
    const int64_t stride = kv_heads * d, ldo = round_up(d, kLanes);
    const int words = d / kPack<T>;
    const float scale = static_cast<float>(args.scale) * kLog2E;
    const int64_t part_count = batch * heads * chunks;
    const int64_t thread_words = round_up(words, kLanes) + kChunk;
    float* outs = static_cast<float*>(
        scratch((part_count * (ldo + 2) + (omp_get_max_threads() + 1) * (thread_words + 16)) * sizeof(float)));
    Part* parts = reinterpret_cast<Part*>(outs + part_count * ldo);  // [batch, heads, chunks], as outs' rows
    float* workspaces = outs + round_up(part_count * (ldo + 2), 16);
#pragma omp parallel if (numbers > kParallelElements)
    {
      Word* q = workspaces + omp_get_thread_num() * round_up(thread_words, 16);
      float* scores = q + round_up(words, kLanes);
#pragma omp for schedule(dynamic, 1)
      for (int64_t task = 0; task < batch * chunks * kv_heads; ++task) {
        const int64_t kv_head = task % kv_heads, chunk = task / kv_heads % chunks, b = task / kv_heads / chunks;
        const int64_t first = chunk * kChunk, left = positions[b] + 1 - first;
        if (left <= 0) continue;
        const int count = static_cast<int>(left < kChunk ? left : kChunk);
        const int64_t place = (b * length + first) * stride + kv_head * d;
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
          const int64_t part = (b * heads + head) * chunks + chunk;
          pack_rows(q, qkv + (b * (heads + 2 * kv_heads) + head) * d, d, 1, 1, d);
          score(scores, q, Rows<T>{k_cache + place, stride, count}, words, scale);
          parts[part] = exponentiate(scores, count);
          add_values(outs + part * ldo, scores, Rows<T>{v_cache + place, stride, count}, d);
        }
      }
#pragma omp for schedule(static)
      for (int64_t row = 0; row < batch * heads; ++row) {
        const int64_t part = row * chunks;
        combine(out + row * d, outs + part * ldo, ldo, parts + part, positions[row / heads] / kChunk + 1, d);
      }
    }
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
