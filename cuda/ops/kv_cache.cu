// Writing to the key/value cache: a block copies a token's keys and values, which are contiguous in qkv.
#include "cuda/kernel.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kSequenceRule = 0, kPositionRule = 1;  // of report(): which of the two arguments is invalid

// Whether a token after t writes to the same position. Then t is skipped, so that the later token wins regardless of
// the order of the blocks. With few tokens, or those of a prompt, this costs little compared with the copy.
__device__ bool is_overwritten(Global<const int> sequences, Global<const int> positions, int t, int tokens,
                               Shared<float> scratch) {
  const int sequence = sequences[t], position = positions[t];
  bool found = false;
  for (int later = t + 1 + threadIdx.x; later < tokens; later += kThreads) {
    found |= positions[later] == position && sequences[later] == sequence;
  }
  return block_reduce<Max>(found ? 1.f : 0.f, scratch) > 0;
}

// width: the number of elements in a token's keys. Accesses are of N elements.
template <class T, int N>
__global__ void write_cache(Global<T> k_cache, Global<T> v_cache, Global<const T> qkv, Global<const int> sequences,
                            Global<const int> positions, Global<Fault> fault, int op, int tokens, int batch, int length,
                            int query_width, int width) {
  SharedMemory memory;
  auto scratch = memory.take<float>(kThreads / kWarp, "scratch");
  const int t = blockIdx.x, sequence = sequences[t], position = positions[t];
  if (sequence < 0) return;
  if (sequence >= batch || position < 0 || position >= length) {
    if (threadIdx.x > 0) return;
    if (sequence >= batch) {
      report(fault, op, t, sequence, batch, kSequenceRule);
    } else {
      report(fault, op, t, position, length, kPositionRule);
    }
    return;
  }
  if (is_overwritten(sequences, positions, t, tokens, scratch)) return;
  const Global<const T> keys = qkv + (static_cast<int64_t>(t) * (query_width + 2 * width) + query_width);
  const int64_t place = (static_cast<int64_t>(sequence) * length + position) * width;
  for (int i = threadIdx.x * N; i < width; i += kThreads * N) {
    const Vec<T, N> key = load<N>(keys + i), value = load<N>(keys + (width + i));
    store<N>(k_cache + (place + i), key);
    store<N>(v_cache + (place + i), value);
  }
}

bool aligned(const Tensor& x) { return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0; }

}  // namespace

void kv_cache_write(const KvCacheWrite& args, const Launcher& on) {
  const int64_t tokens = args.qkv.shape[0], d = args.qkv.shape[2];
  if (tokens == 0 || d == 0) return;
  with_float(args.qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    const int64_t width = args.num_kv_heads * d, query_width = args.num_heads * d;
    const bool wide = width % kVector<T> == 0 && query_width % kVector<T> == 0 && aligned(args.qkv) &&
                      aligned(args.k_cache) && aligned(args.v_cache);
    launch(on, wide ? write_cache<T, kVector<T>> : write_cache<T, 1>, static_cast<unsigned>(tokens), kThreads,
           SharedMemory::round_up(kThreads / kWarp * sizeof(float)), global<T>(args.k_cache), global<T>(args.v_cache),
           global<const T>(args.qkv), global<const int>(args.sequences), global<const int>(args.positions),
           global<Fault>(on.fault, 1), on.op_index, static_cast<int>(tokens), static_cast<int>(args.k_cache.shape[0]),
           static_cast<int>(args.k_cache.shape[1]), static_cast<int>(query_width), static_cast<int>(width));
  });
}

}  // namespace openalpaca::cuda
