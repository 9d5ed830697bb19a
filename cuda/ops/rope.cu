// Rotary position embedding (Su et al., arXiv:2104.09864) in Hugging Face's half-split form, in place on the query and
// key heads of the packed projections. Sines and cosines come from tables, so θ and its scaling are up to the model.
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kHeads = 4;          // per thread, all read before the first is written
constexpr int kMostThreads = 512;  // per block

// A block is a token: threadIdx.x iterates over the first half of a head and also processes the same columns of the
// second, threadIdx.y over the heads. The angles are read once for all heads of a thread. Reads and writes each rotated
// element once: 4 bytes in bfloat16. A head's half starts at a multiple of N elements: 8 for head sizes such as 64 and
// 128, but 2 for 100, whose halves are 100 bytes; accesses of 4 bytes still fill whole sectors, since a warp's are
// adjacent.
template <class T, int N>
__global__ void __launch_bounds__(kMostThreads)
    rotate_kernel(Global<T> qkv, Global<const float> cosines, Global<const float> sines,
                  Global<const int32_t> positions, int heads, int rotated, int half, int table, float direction,
                  Global<Fault> fault, int op) {
  constexpr int kAngles = N < 4 ? N : 4;  // per access
  const int64_t t = blockIdx.x;
  const int position = positions[t];
  if (position < 0 || position >= table) {
    if (threadIdx.x == 0 && threadIdx.y == 0) report(fault, op, t, position, table);
    return;
  }
  for (int i = static_cast<int>(threadIdx.x) * N; i < half; i += static_cast<int>(blockDim.x) * N) {
    Vec<float, kAngles> cos[N / kAngles], sin[N / kAngles];
#pragma unroll
    for (int j = 0; j < N / kAngles; ++j) {
      cos[j] = load<kAngles>(cosines + (int64_t{position} * half + i + j * kAngles));
      sin[j] = load<kAngles>(sines + (int64_t{position} * half + i + j * kAngles));
    }
    for (int first = threadIdx.y; first < rotated; first += kHeads * static_cast<int>(blockDim.y)) {
      Vec<T, N> x1[kHeads], x2[kHeads];
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const int head = first + h * static_cast<int>(blockDim.y);
        if (head >= rotated) break;
        const Global<const T> from = qkv + ((t * heads + head) * 2 * half + i);
        x1[h] = load<N>(from);
        x2[h] = load<N>(from + half);
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const int head = first + h * static_cast<int>(blockDim.y);
        if (head >= rotated) break;
        const Vec<float, N> a = to_floats(x1[h]), b = to_floats(x2[h]);
        Vec<float, N> turned_a, turned_b;
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const float c = cos[k / kAngles][k % kAngles], s = sin[k / kAngles][k % kAngles] * direction;
          turned_a[k] = fmaf(a[k], c, -b[k] * s);
          turned_b[k] = fmaf(b[k], c, a[k] * s);
        }
        const Global<T> to = qkv + ((t * heads + head) * 2 * half + i);
        store<N>(to, from_floats<T>(turned_a));
        store<N>(to + half, from_floats<T>(turned_b));
      }
    }
  }
}

// A direction of −1 rotates back.
void rotate(const RopeForward& args, float direction, const Launcher& on) {
  const int64_t tokens = args.qkv.shape[0], half = args.cos.shape[1];
  const int64_t rotated = args.num_heads + args.num_kv_heads, heads = rotated + args.num_kv_heads;
  if (tokens * rotated * half == 0) return;
  with_float(args.qkv.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto launch_with = [&](auto width) {
      const int64_t columns = std::min<int64_t>(ceil_div(half, width()), kMostThreads);
      const int64_t rows = std::clamp<int64_t>(ceil_div(rotated, kHeads), 1, kMostThreads / columns);
      launch(on, rotate_kernel<T, width()>, dim3(tokens), dim3(columns, rows), 0, global<T>(args.qkv),
             global<const float>(args.cos), global<const float>(args.sin), global<const int32_t>(args.positions),
             static_cast<int>(heads), static_cast<int>(rotated), static_cast<int>(half),
             static_cast<int>(args.cos.shape[0]), direction, global<Fault>(on.fault, 1), on.op_index);
    };
    const auto fits = [&](int n) {
      return aligned(n, half, {args.qkv}) && aligned(std::min(n, 4), half, {args.cos, args.sin});
    };
    if (fits(kVector<T>)) {
      launch_with(Width<kVector<T>>{});
    } else if (fits(2)) {
      launch_with(Width<2>{});
    } else {
      launch_with(Width<1>{});
    }
  });
}

}  // namespace

void rope_forward(const RopeForward& args, const Launcher& on) { rotate(args, 1, on); }
void rope_backward(const RopeBackward& args, const Launcher& on) { rotate(args, -1, on); }

}  // namespace openalpaca::cuda
