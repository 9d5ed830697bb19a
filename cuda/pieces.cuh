// How kernels iterate over rows and flat arrays: in pieces of 16 bytes if all addresses allow it, otherwise element by
// element.
//
// There are two ways. An elementwise kernel is compiled for N elements at a time and for one (Width). A reduction
// kernel keeps its pieces either way and only reads them element by element if necessary (Wide), so that the order of a
// sum, and with it its bits, does not depend on the start of a tensor. For the same reason kernels write fmaf where a
// product and a sum may be fused, rather than leave the choice to the compiler.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "cuda/kernel.cuh"

namespace openalpaca::cuda {

// Elements per thread and step if types of different sizes are involved: 16 bytes of the largest.
template <class... Ts>
constexpr int kTogether = 16 / std::max({sizeof(Ts)...});

// Converts all elements to float32, or from float32 rounded to T. bfloat16 is converted in pairs, which takes one
// instruction per element and lets the compiler keep two in each register until then.
template <class T, int N>
__device__ __forceinline__ Vec<float, N> to_floats(const Vec<T, N>& x) {
  Vec<float, N> y;
  if constexpr (std::is_same_v<T, bf16> && N > 1) {
    uint32_t pairs[N / 2];
    __builtin_memcpy(pairs, &x, sizeof(pairs));
#pragma unroll
    for (int k = 0; k < N; ++k) y[k] = __uint_as_float(k % 2 ? pairs[k / 2] & 0xffff0000u : pairs[k / 2] << 16);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) y[k] = to_float(x[k]);
  }
  return y;
}
template <class T, int N>
__device__ __forceinline__ Vec<T, N> from_floats(const Vec<float, N>& x) {
  Vec<T, N> y;
  if constexpr (std::is_same_v<T, bf16> && N > 1) {
    __nv_bfloat162 pairs[N / 2];
#pragma unroll
    for (int k = 0; k < N / 2; ++k) pairs[k] = __floats2bfloat162_rn(x[2 * k], x[2 * k + 1]);
    __builtin_memcpy(&y, pairs, sizeof(pairs));
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) y[k] = from_float<T>(x[k]);
  }
  return y;
}

// Whether n elements can be accessed at once at every n-th column of every row of these tensors; absent tensors are
// ignored.
inline bool aligned(int n, int64_t columns, std::initializer_list<Tensor> tensors) {
  return columns % n == 0 && std::all_of(tensors.begin(), tensors.end(), [n](const Tensor& tensor) {
           return reinterpret_cast<uintptr_t>(tensor.raw()) % (n * size_of(tensor.dtype)) == 0;
         });
}

template <int N>
using Width = std::integral_constant<int, N>;

// Calls f(Width<N>) or f(Width<1>).
template <int N, class F>
void with_width(bool wide, F&& f) {
  if (wide) {
    f(Width<N>{});
  } else {
    f(Width<1>{});
  }
}

// Calls f(std::true_type) or f(std::false_type).
template <class F>
void with_flag(bool flag, F&& f) {
  if (flag) {
    f(std::true_type{});
  } else {
    f(std::false_type{});
  }
}

// ---- flat arrays: a thread has N adjacent elements ------------------------------------------------------------------

constexpr int kFlatThreads = 256;

inline dim3 flat_grid(int64_t n, int width) {
  return dim3(static_cast<unsigned>(ceil_div(n, int64_t{kFlatThreads} * width)));
}

// Calls f(i, Width<N>) for this thread's elements i … i+N−1 of n; the remainder at the end is processed one by one.
// Only the start of the array must be aligned.
template <int N, class F>
__device__ __forceinline__ void for_my_elements(int64_t n, F&& f) {
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (i + N <= n) {
    f(i, Width<N>{});
  } else {
    for (int64_t j = i; j < n; ++j) f(j, Width<1>{});
  }
}

// ---- rows, elementwise: the block's x is the row, its y and the thread are the piece of the row ---------------------

struct RowGrid {
  dim3 grid, block;
};

// Blocks of about the same size, so that few threads are idle: 1080 pieces are 5 blocks of 224 threads.
inline RowGrid row_grid(int64_t rows, int64_t columns, int width) {
  const int64_t pieces = ceil_div(columns, width), blocks = ceil_div(pieces, 256);
  const int64_t threads = ceil_div(ceil_div(pieces, blocks), kWarp) * kWarp;
  return {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads))};
}

template <int N>
__device__ __forceinline__ int my_column() {
  return static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * N;
}

// ---- one row per block, in registers: a thread has the pieces threadIdx.x + j · blockDim.x --------------------------

template <class T>
using Piece = Vec<T, kVector<T>>;

// The threads for a row of `columns` columns at a given number of pieces per thread, in whole warps and at most `most`.
// The part that does not fit is read again instead of kept.
template <class T>
int row_threads(int64_t columns, int pieces, int most) {
  const int64_t threads = ceil_div(ceil_div(columns, kVector<T> * pieces), kWarp) * kWarp;
  return static_cast<int>(std::clamp<int64_t>(threads, kWarp, most));
}

// The first column of this thread's j-th piece.
template <class T>
__device__ __forceinline__ int piece_column(int j) {
  return static_cast<int>(j * blockDim.x + threadIdx.x) * kVector<T>;
}

// Columns past the end of the row have the value `outside`. Wide: see aligned().
template <class T, bool kWide>
__device__ __forceinline__ Piece<T> load_piece(Global<const T> row, int column, int columns,
                                               T outside = from_float<T>(0)) {
  Piece<T> piece;
  if (kWide && column < columns) return load<kVector<T>>(row + column);
#pragma unroll
  for (int k = 0; k < kVector<T>; ++k) piece[k] = !kWide && column + k < columns ? row[column + k] : outside;
  return piece;
}

template <class T, bool kWide>
__device__ __forceinline__ void store_piece(Global<T> row, int column, int columns, const Piece<T>& piece) {
  if constexpr (kWide) {
    if (column < columns) store<kVector<T>>(row + column, piece);
  } else {
#pragma unroll
    for (int k = 0; k < kVector<T>; ++k) {
      if (column + k < columns) row[column + k] = piece[k];
    }
  }
}

}  // namespace openalpaca::cuda
