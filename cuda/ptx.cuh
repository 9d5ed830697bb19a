// All inline PTX. emulator/ptx.cuh emulates each function.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda/memory.cuh"

namespace openalpaca::cuda {

// The address of shared memory in the form that the instructions below require.
template <class T>
__device__ __forceinline__ uint32_t shared_address(Shared<T> p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- tensor cores (sm_80 on) ----------------------------------------------------------------------------------------

// Loads four 8×8 matrices of 16-bit elements. Lane l supplies row l % 8 of matrix l / 8 (16 bytes, aligned to 16);
// afterwards register i of lane l holds elements (l / 4, 2·(l % 4)) and (l / 4, 2·(l % 4) + 1) of matrix i.
template <class T>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same, with each matrix transposed.
template <class T>
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// Two matrices; lanes 0 to 15 supply the rows.
template <class T>
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
template <class T>
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], Shared<T> row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}

// d += a · b with a 16×16 (row-major), b 16×8 (column-major), both bfloat16, and d 16×8 in float32. With g = lane / 4
// and p = 2·(lane % 4):
//   a[0] (g, p…p+1)  a[1] (g+8, p…)  a[2] (g, p+8…)  a[3] (g+8, p+8…)     b[0] (p…p+1, g)  b[1] (p+8…, g)
//   d[0], d[1] (g, p), (g, p+1)      d[2], d[3] (g+8, p), (g+8, p+1)
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- asynchronous copies from device to shared memory (sm_80 on) ----------------------------------------------------

// Bytes is 4, 8, or 16, and both addresses are multiples of it. If `valid` is false, zeros are written and nothing is
// read. The bytes may be used after cp_async_wait, and by other threads after a barrier that follows it.
template <int Bytes, class T>
__device__ __forceinline__ void cp_async(Shared<T> to, Global<const T> from, bool valid = true) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  const int bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(to)), "l"(from), "n"(Bytes),
                 "r"(bytes)
                 : "memory");
  }
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most Pending of this thread's groups are in flight.
template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

// 2^x to about 2 ulp; −∞ gives 0.
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- registers ------------------------------------------------------------------------------------------------------

// Returns the same value, opaque to the compiler: anything derived from it, such as a row of bfloat16 in float32, is
// recomputed at each use and does not occupy registers in between.
template <class T>
__device__ __forceinline__ T fresh(T value) {
  static_assert(sizeof(T) % 4 == 0);
  uint32_t words[sizeof(T) / 4];
  __builtin_memcpy(words, &value, sizeof(T));
#pragma unroll
  for (uint32_t& word : words) asm volatile("" : "+r"(word));
  __builtin_memcpy(&value, words, sizeof(T));
  return value;
}

// ---- caches ---------------------------------------------------------------------------------------------------------

// Loads memory that is constant while the kernel runs and is read only once: bypasses the first-level cache.
template <int N, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, N> load_once(Global<T> p) {
  using V = Vec<std::remove_const_t<T>, N>;
  V values;
  if constexpr (sizeof(V) == 16) {
    uint32_t r[4];
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "l"(p));
    static_assert(sizeof(r) == sizeof(V));
    __builtin_memcpy(&values, r, sizeof(V));
  } else {
    values = load<N>(p);
  }
  return values;
}

}  // namespace openalpaca::cuda
