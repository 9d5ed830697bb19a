// The memory types of kernels. On a GPU these are plain pointers and vector accesses; the counterparts in
// emulator/memory.cuh know their bounds and the last writer.
//
//   Global<T>   device memory of one tensor, as global<T>(tensor) makes it on the host
//   Shared<T>   shared memory of the block, taken from its SharedMemory
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "core/tensor.h"

namespace openalpaca::cuda {

template <class T>
using Global = T*;
template <class T>
using Shared = T*;

template <class T>
Global<T> global(const Tensor& tensor) {
  return static_cast<T*>(tensor.raw());
}
// `count` elements of T without a tensor: workspace, or the stream's fault.
template <class T>
Global<T> global(void* data, size_t) {
  return static_cast<T*>(data);
}

// The block's dynamic shared memory, allocated from its start: every thread takes the same pieces in the same order.
// `name` is for the emulator's messages.
class SharedMemory {
 public:
  template <class T>
  __device__ Shared<T> take(int count, const char* name) {
    extern __shared__ __align__(128) unsigned char bytes[];
    T* piece = reinterpret_cast<T*>(bytes + used_);
    used_ += round_up(count * static_cast<int>(sizeof(T)));
    return piece;
  }
  // The number of bytes that take() uses for a piece; a launcher adds these up.
  __host__ __device__ static constexpr int round_up(int bytes) { return (bytes + 127) / 128 * 128; }

 private:
  int used_ = 0;
};

// N elements that are read or written in one access. N · sizeof(T) is 2, 4, 8, or 16, and the address a multiple of it.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T lanes[N];
  __host__ __device__ T& operator[](int i) { return lanes[i]; }
  __host__ __device__ const T& operator[](int i) const { return lanes[i]; }
};

template <int N, class T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, N> load(const T* p) {
  return *reinterpret_cast<const Vec<std::remove_const_t<T>, N>*>(p);
}
template <int N, class T>
__device__ __forceinline__ void store(T* p, const Vec<T, N>& values) {
  *reinterpret_cast<Vec<T, N>*>(p) = values;
}

// Atomic operations on 32 or 64 bits of device or shared memory; each returns the previous value.
template <class T>
__device__ __forceinline__ T atomic_add(T* p, std::type_identity_t<T> value) {
  return atomicAdd(p, value);
}
template <class T>
__device__ __forceinline__ T atomic_max(T* p, std::type_identity_t<T> value) {
  return atomicMax(p, value);
}
template <class T>
__device__ __forceinline__ T atomic_min(T* p, std::type_identity_t<T> value) {
  return atomicMin(p, value);
}
template <class T>
__device__ __forceinline__ T atomic_cas(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> desired) {
  return atomicCAS(p, expected, desired);
}

}  // namespace openalpaca::cuda
