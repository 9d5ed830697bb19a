// The primitives of the attention kernels, forward and backward, in both dtypes:
//
//   Rows           one head's rows of one sequence in device memory
//   SharedTile     some of them in shared memory; load(tile, rows, first) fetches it
//   Registers      a warp's part of a matrix of float32 sums
//   s += a bᵀ      add_abt(s, a, b): both factors in shared memory
//   o += p b       add_ab(o, p, b): p in registers
//
// A warp owns whole rows of every product, so a softmax needs no other warp, and the result of one product in registers
// is the left factor of the next without going through memory (FlashAttention-2, Dao, arXiv:2307.08691). bfloat16
// multiplies on the tensor cores, float32 with fused multiply-adds in the same register layout.
#pragma once

#include <cstring>
#include <initializer_list>
#include <string>

#include "core/device.h"
#include "cuda/kernel.cuh"

namespace openalpaca::cuda {

constexpr int kMaxHeadSize = 128;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct AttentionShape {
  int tokens, heads, kv_heads, d;
  __host__ __device__ int group() const { return heads / kv_heads; }  // query heads per key/value head
  __host__ __device__ int qkv_stride() const { return (heads + 2 * kv_heads) * d; }
  __host__ __device__ int out_stride() const { return heads * d; }
};

// Throws Error("INVALID_SHAPE") for a head size without kernels.
inline AttentionShape attention_shape(const Tensor& qkv, int64_t heads, int64_t kv_heads, const char* op) {
  const int64_t d = qkv.shape[2];
  if (d % 2 != 0 || d > kMaxHeadSize) {
    throw Error("INVALID_SHAPE", std::string(op) + ": the head size must be even and at most " +
                                     std::to_string(kMaxHeadSize) + ", but is " + std::to_string(d));
  }
  return {static_cast<int>(qkv.shape[0]), static_cast<int>(heads), static_cast<int>(kv_heads), static_cast<int>(d)};
}

// ---- device memory --------------------------------------------------------------------------------------------------

template <class T>
struct Rows {
  Global<T> data;  // the first element
  int stride;      // elements from one token to the next
  int count, d;    // tokens; elements per row
  __device__ Global<T> operator[](int token) const { return data + static_cast<int64_t>(token) * stride; }
};

// `count` tokens from `start` on, of one head in [T, heads, D]; the heads of qkv are those of queries, keys, and
// values.
template <class T>
__device__ __forceinline__ Rows<T> rows_of(Global<T> tensor, int stride, int start, int count, int head, int d) {
  return {tensor + (static_cast<int64_t>(start) * stride + head * d), stride, count, d};
}

template <class T>
__device__ __forceinline__ Vec<float, 2> load_pair(Global<const T> from) {
  if constexpr (sizeof(T) == 2) {
    const auto pair = load<2>(from);
    return {to_float(pair[0]), to_float(pair[1])};
  } else {  // may be aligned to one element only
    return {from[0], from[1]};
  }
}
template <class T>
__device__ __forceinline__ void store_pair(Global<T> to, float a, float b) {
  if constexpr (sizeof(T) == 2) {
    store<2>(to, Vec<T, 2>{from_float<T>(a), from_float<T>(b)});
  } else {
    to[0] = a;
    to[1] = b;
  }
}

// ---- shared memory --------------------------------------------------------------------------------------------------

template <class T, int kHead>
struct SharedTile {
  static constexpr int kDepth = (kHead + 15) / 16 * 16;    // products over the head size take steps of 16
  static constexpr int kStride = kDepth + 16 / sizeof(T);  // an odd multiple of 16 bytes: 8 consecutive
  Shared<T> data;                                          // rows are in different banks
  __device__ SharedTile(SharedMemory& memory, int rows, const char* name)
      : data(memory.take<T>(rows * kStride, name)) {}
  __device__ explicit SharedTile(Shared<T> first) : data(first) {}
  __device__ Shared<T> at(int row, int column) const { return data + (row * kStride + column); }
  __device__ SharedTile from(int row) const { return SharedTile(at(row, 0)); }
  static constexpr int bytes(int rows) { return SharedMemory::round_up(rows * kStride * static_cast<int>(sizeof(T))); }
};

// Lanes of a warp that copy a row together: a power of two, so that a thread's columns are fixed.
constexpr int lanes_for(int pieces) { return pieces <= 4 ? 4 : pieces <= 8 ? 8 : pieces <= 16 ? 16 : 32; }

// Starts copying kCount rows from `first` on into a tile, kAccess bytes at a time; rows past the end become zeros. All
// kThreads threads of the block take part.
template <int kAccess, int kCount, int kThreads, class T, int kHead>
__device__ __forceinline__ void load(const SharedTile<T, kHead>& tile, const Rows<const T>& rows, int first) {
  using Tile = SharedTile<T, kHead>;
  constexpr int kElements = kAccess / sizeof(T), kLanes = lanes_for(Tile::kDepth / kElements);
#pragma unroll
  for (int start = 0; start < Tile::kDepth; start += kLanes * kElements) {
    const int column = start + threadIdx.x % kLanes * kElements, row = threadIdx.x / kLanes;
    if (column >= Tile::kDepth) break;
    const int count = column < rows.d ? rows.count - first : 0;
    Global<const T> from = rows[first + row] + column;
    const int64_t step = static_cast<int64_t>(rows.stride) * (kThreads / kLanes);
#pragma unroll
    for (int i = 0; i < kCount; i += kThreads / kLanes) {
      cp_async<kAccess>(tile.at(row + i, column), from, row + i < count);
      from += step;
    }
  }
}

// ---- registers ------------------------------------------------------------------------------------------------------

// A warp's matrix of 16·R rows and 8·N columns, in the layout of mma_m16n8k16: a lane holds parts of 2·R rows.
template <int R, int N>
struct Registers {
  static constexpr int kRows = 2 * R;
  float x[R][N][4] = {};

  __device__ static int row(int r) { return r / 2 * 16 + r % 2 * 8 + threadIdx.x % kWarp / 4; }

  // Calls f(r, column, x) for each of the lane's elements; r numbers the lane's rows, and row(r) is the matrix row.
  template <class F>
  __device__ __forceinline__ void for_each(F&& f) {
    const int first = threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < R; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) f(i * 2 + e / 2, j * 8 + first + e % 2, x[i][j][e]);
      }
    }
  }
};

// Sets the elements above the diagonal (column > row), or below it. The registers are the part of a larger matrix that
// starts at the given row and column.
template <int R, int N>
__device__ __forceinline__ void set_above_diagonal(Registers<R, N>& part, int row, int column, float to) {
  part.for_each([&](int r, int j, float& x) { x = column + j > row + part.row(r) ? to : x; });
}
template <int R, int N>
__device__ __forceinline__ void set_below_diagonal(Registers<R, N>& part, int row, int column, float to) {
  part.for_each([&](int r, int j, float& x) { x = column + j < row + part.row(r) ? to : x; });
}

// x *= y, elementwise.
template <int R, int N>
__device__ __forceinline__ void multiply(Registers<R, N>& x, const Registers<R, N>& y) {
#pragma unroll
  for (int i = 0; i < R * N * 4; ++i) x.x[i / 4 / N][i / 4 % N][i % 4] *= y.x[i / 4 / N][i / 4 % N][i % 4];
}

// The sum, or maximum, of a value over a row: over the four lanes that share it.
template <class Op>
__device__ __forceinline__ float row_reduce(float x) {
  return warp_reduce<Op, 4>(x);
}

// Writes the rows from `first` on, each multiplied by its factor.
template <class T, int R, int N>
__device__ __forceinline__ void store(const Rows<T>& rows, int first, const Registers<R, N>& values,
                                      const float (&factor)[2 * R]) {
#pragma unroll
  for (int r = 0; r < 2 * R; ++r) {
    const int row = first + Registers<R, N>::row(r);
    if (row >= rows.count) continue;
    const Global<T> to = rows[row];
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const int column = j * 8 + threadIdx.x % 4 * 2;
      const float* pair = values.x[r / 2][j] + r % 2 * 2;
      if (column < rows.d) store_pair(to + column, pair[0] * factor[r], pair[1] * factor[r]);
    }
  }
}

// ---- products -------------------------------------------------------------------------------------------------------

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const Vec<bf16, 2> pair = {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
  uint32_t bits;
  std::memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// s += a bᵀ, where a has 16·R rows and b has 8·N.
template <int kHead, int R, int N>
__device__ __forceinline__ void add_abt(Registers<R, N>& s, const SharedTile<bf16, kHead>& a,
                                        const SharedTile<bf16, kHead>& b) {
  static_assert(N % 2 == 0);
  [[maybe_unused]] constexpr int kUnroll = R * N >= 16 && kHead <= 104 ? 4 : 8;  // without spills in ptxas 13.0
  const int lane = threadIdx.x % kWarp;
#pragma unroll kUnroll
  for (int k = 0; k < SharedTile<bf16, kHead>::kDepth; k += 16) {
    uint32_t left[R][4];
#pragma unroll
    for (int i = 0; i < R; ++i) ldmatrix_x4(left[i], a.at(16 * i + lane % 16, k + lane / 16 * 8));
#pragma unroll
    for (int j = 0; j < N; j += 2) {
      uint32_t right[4];
      ldmatrix_x4(right, b.at(8 * j + lane / 16 * 8 + lane % 8, k + lane / 8 % 2 * 8));
#pragma unroll
      for (int i = 0; i < R; ++i) {
        mma_m16n8k16(s.x[i][j], left[i], {right[0], right[1]});
        mma_m16n8k16(s.x[i][j + 1], left[i], {right[2], right[3]});
      }
    }
  }
}

// o += p b, where b has as many rows as p has columns; uses its first 8·N columns. p is rounded to bfloat16: the sums
// that a lane holds are exactly the elements that the instruction expects from it in the left factor.
template <int kHead, int R, int K, int N>
__device__ __forceinline__ void add_ab(Registers<R, N>& o, const Registers<R, K>& p, const SharedTile<bf16, kHead>& b) {
  static_assert(K % 2 == 0 && 8 * N <= SharedTile<bf16, kHead>::kDepth);
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int k = 0; k < K; k += 2) {
    uint32_t left[R][4];
#pragma unroll
    for (int i = 0; i < R; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) left[i][e] = pack(p.x[i][k + e / 2][e % 2 * 2], p.x[i][k + e / 2][e % 2 * 2 + 1]);
    }
#pragma unroll
    for (int j = 0; j + 1 < N; j += 2) {
      uint32_t right[4];
      ldmatrix_x4_trans(right, b.at(8 * k + lane % 16, 8 * j + lane / 16 * 8));
#pragma unroll
      for (int i = 0; i < R; ++i) {
        mma_m16n8k16(o.x[i][j], left[i], {right[0], right[1]});
        mma_m16n8k16(o.x[i][j + 1], left[i], {right[2], right[3]});
      }
    }
    if constexpr (N % 2 == 1) {
      uint32_t right[2];
      ldmatrix_x2_trans(right, b.at(8 * k + lane % 16, 8 * (N - 1)));
#pragma unroll
      for (int i = 0; i < R; ++i) mma_m16n8k16(o.x[i][N - 1], left[i], right);
    }
  }
}

template <int kHead, int R, int N>
__device__ __forceinline__ void add_abt(Registers<R, N>& s, const SharedTile<float, kHead>& a,
                                        const SharedTile<float, kHead>& b) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll 2
  for (int k = 0; k < SharedTile<float, kHead>::kDepth; k += 4) {
    Vec<float, 4> left[R][2];
#pragma unroll
    for (int r = 0; r < 2 * R; ++r) left[r / 2][r % 2] = load<4>(a.at(Registers<R, N>::row(r), k));
#pragma unroll
    for (int j = 0; j < N; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const auto right = load<4>(b.at(8 * j + lane % 4 * 2 + e, k));
#pragma unroll
        for (int r = 0; r < 2 * R; ++r) {
          float& sum = s.x[r / 2][j][r % 2 * 2 + e];
#pragma unroll
          for (int i = 0; i < 4; ++i) sum = fmaf(left[r / 2][r % 2][i], right[i], sum);
        }
      }
    }
  }
}

// The four lanes that share the rows of p exchange its columns.
template <int kHead, int R, int K, int N>
__device__ __forceinline__ void add_ab(Registers<R, N>& o, const Registers<R, K>& p,
                                       const SharedTile<float, kHead>& b) {
  const int column = threadIdx.x % 4 * 2;
#pragma unroll
  for (int k = 0; k < 8 * K; ++k) {
    float left[2 * R];
#pragma unroll
    for (int r = 0; r < 2 * R; ++r) {
      left[r] = __shfl_sync(kAllLanes, p.x[r / 2][k / 8][r % 2 * 2 + k % 2], k % 8 / 2, 4);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const auto right = load<2>(b.at(k, 8 * j + column));
#pragma unroll
      for (int r = 0; r < 2 * R; ++r) {
        o.x[r / 2][j][r % 2 * 2] = fmaf(left[r], right[0], o.x[r / 2][j][r % 2 * 2]);
        o.x[r / 2][j][r % 2 * 2 + 1] = fmaf(left[r], right[1], o.x[r / 2][j][r % 2 * 2 + 1]);
      }
    }
  }
}

// ---- instantiations -------------------------------------------------------------------------------------------------

template <int kValue>
using Constant = std::integral_constant<int, kValue>;

// Calls f(Constant<bytes>) with an access size that suits rows of d elements in all these tensors, which may be views
// with any start: the widest for common head sizes (16 bytes; rows of 100 bfloat16 are 200 bytes, so 8), or 4.
template <int kHead, class F>
void with_access(int64_t d, std::initializer_list<const Tensor*> tensors, F&& f) {
  constexpr int kWide = kHead % 16 == 0 ? 16 : 8;
  uint64_t bits = 0;
  for (const Tensor* tensor : tensors) {
    bits |= reinterpret_cast<uint64_t>(tensor->raw()) | static_cast<uint64_t>(d) * size_of(tensor->dtype);
  }
  if (bits % kWide == 0) return f(Constant<kWide>{});
  f(Constant<4>{});
}

// Calls f(zero of T, Constant<kHead>) with the smallest supported head size that is at least d. 104 is for
// OpenLLaMA-3B's 100; products over the head size round it up to 112 = 7·16, products that yield it use 104 = 13·8.
template <class F>
void with_head_size(DType dtype, int64_t d, F&& f) {
  if (dtype == DType::float32) {
    if (d <= 64) return f(float{}, Constant<64>{});
    return f(float{}, Constant<128>{});
  }
  if (d <= 32) return f(bf16{}, Constant<32>{});
  if (d <= 64) return f(bf16{}, Constant<64>{});
  if (d <= 80) return f(bf16{}, Constant<80>{});
  if (d <= 96) return f(bf16{}, Constant<96>{});
  if (d <= 104) return f(bf16{}, Constant<104>{});
  return f(bf16{}, Constant<128>{});
}

}  // namespace openalpaca::cuda
