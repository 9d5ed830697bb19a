// Emulator counterpart of CUDA's header: found before the real one, so that .cu files compile as plain C++. Defines the
// language features that the project uses; runtime.h has the runtime functions.
#pragma once

#include <math.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __restrict__

constexpr int warpSize = 32;

// ---- vector types ---------------------------------------------------------------------------------------------------

#define OPENALPACA_VECTORS(T, name)                                              \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                             \
  struct name##3 { T x, y, z; };                                                 \
  struct alignas(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; }; \
  constexpr name##2 make_##name##2(T x, T y) { return {x, y}; }                  \
  constexpr name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }          \
  constexpr name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
OPENALPACA_VECTORS(float, float)
OPENALPACA_VECTORS(int, int)
#undef OPENALPACA_VECTORS
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
constexpr uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
constexpr uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
constexpr uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// ---- barriers, shuffles, votes: all lanes of the warp, or all threads of the block, from one line of the source -----

#define OPENALPACA_PLACE ::openalpaca::emulator::Place place = ::openalpaca::emulator::Place::current()

inline void __syncthreads(OPENALPACA_PLACE) { ::openalpaca::emulator::barrier(place); }

namespace openalpaca::emulator {

inline void check_mask(const char* what, unsigned mask) {
  if (mask != 0xffffffff) fail(std::string(what) + ": the emulator supports only the mask of all lanes");
}

template <class T>
struct Exchange {
  T value;
  int source;  // the lane to read from
  T result;
};

template <class T>
inline T exchange(const char* what, unsigned mask, T value, int source, Place place) {
  check_mask(what, mask);
  Exchange<T> mine{value, source, value};
  collective(what, mine, place, [](Exchange<T>** lanes) {
    for (int i = 0; i < kLanes; ++i) lanes[i]->result = lanes[lanes[i]->source]->value;
  });
  return mine.result;
}

struct Vote {
  bool value;
  unsigned result;
};

inline unsigned vote(const char* what, unsigned mask, bool value, Place place) {
  check_mask(what, mask);
  Vote mine{value, 0};
  collective(what, mine, place, [](Vote** lanes) {
    unsigned ballot = 0;
    for (int i = 0; i < kLanes; ++i) ballot |= unsigned{lanes[i]->value} << i;
    for (int i = 0; i < kLanes; ++i) lanes[i]->result = ballot;
  });
  return mine.result;
}

}  // namespace openalpaca::emulator

inline void __syncwarp(unsigned mask = 0xffffffff, OPENALPACA_PLACE) {
  ::openalpaca::emulator::check_mask("__syncwarp", mask);
  ::openalpaca::emulator::sync_warp(place);
}
// `width` lanes form a group; a source outside of the group means the lane itself.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, OPENALPACA_PLACE) {
  const int lane = ::openalpaca::emulator::current->lane;
  return ::openalpaca::emulator::exchange("__shfl_sync", mask, value, lane / width * width + (source & (width - 1)),
                                          place);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, OPENALPACA_PLACE) {
  const int lane = ::openalpaca::emulator::current->lane, source = lane - static_cast<int>(delta);
  return ::openalpaca::emulator::exchange("__shfl_up_sync", mask, value, source < lane / width * width ? lane : source,
                                          place);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, OPENALPACA_PLACE) {
  const int lane = ::openalpaca::emulator::current->lane, source = lane + static_cast<int>(delta);
  return ::openalpaca::emulator::exchange("__shfl_down_sync", mask, value,
                                          source >= (lane / width + 1) * width ? lane : source, place);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, OPENALPACA_PLACE) {
  const int lane = ::openalpaca::emulator::current->lane, source = lane ^ bits;
  return ::openalpaca::emulator::exchange("__shfl_xor_sync", mask, value,
                                          source >= (lane / width + 1) * width ? lane : source, place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, OPENALPACA_PLACE) {
  return ::openalpaca::emulator::vote("__ballot_sync", mask, predicate != 0, place);
}
inline int __any_sync(unsigned mask, int predicate, OPENALPACA_PLACE) {
  return ::openalpaca::emulator::vote("__any_sync", mask, predicate != 0, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, OPENALPACA_PLACE) {
  return ::openalpaca::emulator::vote("__all_sync", mask, predicate != 0, place) == 0xffffffff;
}
// Like __syncthreads for the block, and counts the threads whose predicate is true.
inline int __syncthreads_count(int predicate, OPENALPACA_PLACE) {
  return ::openalpaca::emulator::barrier_count(predicate != 0, place);
}
inline int __syncthreads_or(int predicate, OPENALPACA_PLACE) { return __syncthreads_count(predicate, place) > 0; }
inline int __syncthreads_and(int predicate, OPENALPACA_PLACE) { return __syncthreads_count(!predicate, place) == 0; }
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

inline float __expf(float x) { return expf(x); }
inline float __exp2f(float x) { return exp2f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
// Never fused with an addition.
inline float __fmul_rn(float a, float b) {
  volatile float product = a * b;
  return product;
}
inline float __fadd_rn(float a, float b) {
  volatile float sum = a + b;
  return sum;
}
inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline int __float2int_rn(float x) { return static_cast<int>(lrintf(x)); }
inline int __float2int_rz(float x) { return static_cast<int>(x); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }

inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }

inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>(((uint64_t{high} << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}

#define OPENALPACA_MINMAX(T)                          \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
OPENALPACA_MINMAX(int)
OPENALPACA_MINMAX(unsigned)
OPENALPACA_MINMAX(long)
OPENALPACA_MINMAX(unsigned long)
OPENALPACA_MINMAX(long long)
OPENALPACA_MINMAX(unsigned long long)
#undef OPENALPACA_MINMAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

// ---- atomic operations on device memory; several streams may run at once --------------------------------------------

template <class T>
inline T atomicCAS(T* p, T expected, std::type_identity_t<T> desired) {
  __atomic_compare_exchange(p, &expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
}
namespace openalpaca::emulator {
template <class T, class F>
inline T atomic_change(T* p, F&& change) {
  T before = *p;
  for (T after = change(before);
       !__atomic_compare_exchange(p, &before, &after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
       after = change(before)) {}
  return before;
}
}  // namespace openalpaca::emulator
template <class T>
inline T atomicAdd(T* p, std::type_identity_t<T> v) {
  return ::openalpaca::emulator::atomic_change(p, [&](T x) { return x + v; });
}
template <class T>
inline T atomicMax(T* p, std::type_identity_t<T> v) {
  return ::openalpaca::emulator::atomic_change(p, [&](T x) { return std::max(x, v); });
}
template <class T>
inline T atomicMin(T* p, std::type_identity_t<T> v) {
  return ::openalpaca::emulator::atomic_change(p, [&](T x) { return std::min(x, v); });
}
template <class T>
inline T atomicExch(T* p, std::type_identity_t<T> v) {
  return ::openalpaca::emulator::atomic_change(p, [&](T) { return v; });
}

#include "emulator/runtime.h"
