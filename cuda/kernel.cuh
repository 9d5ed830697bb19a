// Included by every kernel file: memory, the instructions of ptx.cuh, number types, reductions, and launching. The same
// files compile as plain C++ for the emulator (emulator/), which has counterparts of the two headers chosen here.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "core/ops.h"
#include "cuda/runtime/launcher.h"
#ifdef OPENALPACA_EMULATOR
#include "emulator/memory.cuh"
#include "emulator/ptx.cuh"
#else
#include "cuda/memory.cuh"
#include "cuda/ptx.cuh"
#endif

namespace openalpaca::cuda {

using bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;

// ---- number types ---------------------------------------------------------------------------------------------------

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(int32_t x) { return static_cast<float>(x); }

// Rounds to nearest even.
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return static_cast<T>(x);
  }
}

// Elements of T in a 16-byte access.
template <class T>
constexpr int kVector = 16 / sizeof(T);

// Calls f with a value of a dtype's C++ type: with_float(dtype, [&](auto zero) { using T = decltype(zero); … }).
template <class F>
void with_float(DType dtype, F&& f) {
  if (dtype == DType::bfloat16) {
    f(bf16{});
  } else {
    f(float{});
  }
}

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- reductions: every lane, or thread, receives the result; the order is fixed -------------------------------------

struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Max {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Over groups of `Width` adjacent lanes.
template <class Op, int Width = kWarp>
__device__ __forceinline__ float warp_reduce(float x) {
#pragma unroll
  for (int step = Width / 2; step > 0; step /= 2) x = Op{}(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

// Over the block. `scratch` holds one float per warp; the block must be a multiple of a warp, and all its threads must
// call.
template <class Op>
__device__ __forceinline__ float block_reduce(float x, Shared<float> scratch) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  x = warp_reduce<Op>(x);
  if (warps == 1) return x;
  __syncthreads();  // scratch may still hold the previous result
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = scratch[0];
  for (int i = 1; i < warps; ++i) x = Op{}(x, scratch[i]);
  return x;
}

// ---- invalid data ---------------------------------------------------------------------------------------------------

// Reports that element `index` of an argument is `value`, which is not in [0, limit). The kernel continues, and must
// not use the value. `op` is the launcher's op_index, `fault` is global<Fault>(on.fault, 1). `rule` distinguishes an
// op's possible errors (faults.cpp has the messages): for kv_cache_write, 0 is the sequence and 1 the position; for
// sample, 0 is a token of the history and 1 non-finite logits, where index is the sequence; for cu_seqlens, 0 is a
// decrease (or, at index 0, a start other than 0) and 1 a last element other than `limit`.
__device__ __forceinline__ void report(Global<Fault> fault, int32_t op, int64_t index, int32_t value, int64_t limit,
                                       int rule = 0) {
  Fault& it = fault[0];
  const int32_t before = atomicCAS(&it.op, 0, op);
  if (before != 0 && before != op) return;  // an earlier op's fault takes precedence
  it.limit = static_cast<int32_t>(limit);
  const unsigned long long where = static_cast<unsigned long long>(index) << 33 |
                                   static_cast<unsigned long long>(rule) << 32 | static_cast<uint32_t>(value);
  atomicMax(reinterpret_cast<unsigned long long*>(&it.where), ~where);
}

// ---- launching ------------------------------------------------------------------------------------------------------

// Launches kernel<<<grid, block, shared_bytes>>>(args...) on the launcher's stream. Throws Error if CUDA rejects it.
template <class... Params, class... Args>
void launch(const Launcher& on, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            const Args&... args) {
  if (shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          on.op);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = on.stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), on.op);
}

}  // namespace openalpaca::cuda
