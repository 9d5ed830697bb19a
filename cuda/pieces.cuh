// How kernels walk rows and flat arrays: in pieces of 16 bytes where all addresses allow it, else element by element.
//
// There are two ways. An elementwise kernel is compiled for N elements at a time and for one (Width). A kernel that
// takes sums keeps its pieces either way and only reads them element by element where it must (Wide), so that a sum's
// order, and with it its bits, does not depend on where a tensor happens to start. For the same reason kernels say fmaf
// where a product and a sum may be one operation, and leave no choice to the compiler.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "cuda/kernel.cuh"

namespace openalpaca::cuda {

// Elements that a thread takes at once where types of several sizes meet: 16 bytes of the largest.
template <class... Ts>
constexpr int kTogether = 16 / std::max({sizeof(Ts)...});

// All elements as float32, and float32 rounded to T. bfloat16 goes by pairs, so that it takes one instruction an
// element, and the compiler leaves two in each register until then.
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

// Whether n elements can be accessed at once at every n-th column of every row of these tensors; absent ones do not
// count.
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

// ---- flat arrays: a thread takes N neighbouring elements ----------------------------------------------------------

constexpr int kFlatThreads = 256;

inline dim3 flat_grid(int64_t n, int width) {
  return dim3(static_cast<unsigned>(ceil_div(n, int64_t{kFlatThreads} * width)));
}

// Calls f(i, Width<N>) for this thread's elements i … i+N−1 of n; what is left over at the end goes one by one. Only
// the start of the array has to be aligned.
template <int N, class F>
__device__ __forceinline__ void for_my_elements(int64_t n, F&& f) {
  const int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * N;
  if (i + N <= n) {
    f(i, Width<N>{});
  } else {
    for (int64_t j = i; j < n; ++j) f(j, Width<1>{});
  }
}

// ---- rows, elementwise: the row is the block's x, the piece of the row its y and the thread -----------------------

struct RowGrid {
  dim3 grid, block;
};

// Blocks of about the same size, so that few threads have nothing to do: 1080 pieces are 5 blocks of 224 threads.
inline RowGrid row_grid(int64_t rows, int64_t columns, int width) {
  const int64_t pieces = ceil_div(columns, width), blocks = ceil_div(pieces, 256);
  const int64_t threads = ceil_div(ceil_div(pieces, blocks), kWarp) * kWarp;
  return {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads))};
}

template <int N>
__device__ __forceinline__ int my_column() {
  return static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * N;
}

// ---- a row a block, in registers: a thread takes the pieces threadIdx.x + j · blockDim.x --------------------------

template <class T>
using Piece = Vec<T, kVector<T>>;

// The threads for a row of so many columns at so many pieces a thread, in whole warps and at most `most`. What does not
// fit is read again instead of kept.
template <class T>
int row_threads(int64_t columns, int pieces, int most) {
  const int64_t threads = ceil_div(ceil_div(columns, kVector<T> * pieces), kWarp) * kWarp;
  return static_cast<int>(std::clamp<int64_t>(threads, kWarp, most));
}

// The column at which this thread's j-th piece starts.
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
