// Vectors of float32 at the instruction set's width, using the compiler's vector extensions, with loads, stores, and
// conversions of the storage types. `Vec` holds kLanes numbers; for_each_vec iterates over a row of any length, with a
// masked last step.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifndef OPENALPACA_ISA
#error "cpu/ops/vec.h belongs to kernel files, which are compiled once per instruction set"
#endif

namespace openalpaca::cpu::OPENALPACA_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t VecI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VecU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VecU16 __attribute__((vector_size(kLanes * 2)));

struct bf16 {
  uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Rounds to nearest even and preserves NaN.
inline void from_float(float x, float& out) { out = x; }
inline void from_float(float x, bf16& out) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    out.bits = static_cast<uint16_t>((bits >> 16) | 0x40);
  } else {
    out.bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

inline Vec splat(float x) { return x - Vec{}; }  // not Vec{} + x, which is an addition that turns −0 into +0

inline VecI lane_index() {
  VecI lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Vec widen(VecU16 half) {
#if defined(__AVX512F__)  // GCC compiles the general form to three instructions
  const VecU wide = (VecU)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)half) << 16;
#elif defined(__AVX2__)
  const VecU wide = (VecU)_mm256_cvtepu16_epi32((__m128i)half) << 16;
#else
  const VecU wide = __builtin_convertvector(half, VecU) << 16;
#endif
  Vec v;
  std::memcpy(&v, &wide, sizeof v);
  return v;
}
inline Vec load(const bf16* p) {
  VecU16 half;
  std::memcpy(&half, p, sizeof half);
  return widen(half);
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline VecU16 round_to_bf16(Vec v) {
  VecU bits;
  std::memcpy(&bits, &v, sizeof bits);
  const VecU rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const VecU quiet = (bits >> 16) | 0x40;
  const VecU is_nan = (VecU)((bits & 0x7fffffff) > 0x7f800000);
  return __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), VecU16);
}
inline void store(bf16* p, Vec v) {
#ifdef __AVX512BF16__
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);  // flushes subnormal numbers to zero
#else
  const VecU16 half = round_to_bf16(v);
#endif
  std::memcpy(p, &half, sizeof half);
}

// The first n < kLanes numbers; the remaining lanes are zero. No memory past them is accessed.
inline Vec load_first(const float* p, int n) {
#if defined(__AVX512F__)
  return (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  Vec v = {};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}
inline Vec load_first(const bf16* p, int n) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return widen((VecU16)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p));
#else
  Vec v = {};
  for (int i = 0; i < n; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
inline void store_first(float* p, Vec v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#else
  for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}
inline void store_first(bf16* p, Vec v, int n) {
#if defined(__AVX512BF16__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  for (int i = 0; i < n; ++i) from_float(v[i], p[i]);
#endif
}

// The larger or smaller of each pair; b if either is NaN.
#if defined(__AVX512F__)
inline Vec max(Vec a, Vec b) { return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
inline Vec min(Vec a, Vec b) { return (Vec)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
#elif defined(__AVX2__)
inline Vec max(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
inline Vec min(Vec a, Vec b) { return (Vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
#endif
// The sum and the maximum of all lanes, by halving.
inline Vec exchange(Vec v, int width) {
  Vec other;
  for (int i = 0; i < kLanes; ++i) other[i] = v[i ^ width];
  return other;
}
inline float sum(Vec v) {
#pragma GCC unroll 4
  for (int width = kLanes / 2; width > 0; width /= 2) v += exchange(v, width);
  return v[0];
}
inline float max(Vec v) {
#pragma GCC unroll 4
  for (int width = kLanes / 2; width > 0; width /= 2) v = max(v, exchange(v, width));
  return v[0];
}

// The nearest integer, and p · 2^n for an integer n: any n with AVX-512, otherwise one in [−126, 128].
#if defined(__AVX512F__)
inline Vec round_to_integer(Vec x) { return (Vec)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, 0); }
inline Vec scale_by_power(Vec p, Vec n) { return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n); }
#else
inline Vec round_to_integer(Vec x) { return (x + 12582912.0f) - 12582912.0f; }  // 1.5·2^23; for |x| < 2^22
inline Vec scale_by_power(Vec p, Vec n) {
  const VecI exponent = __builtin_convertvector(n, VecI);
  VecI half = exponent >> 1, rest = exponent - half;  // two factors: 2^128 is not a float32
  half = (half + 127) << 23;
  rest = (rest + 127) << 23;
  Vec a, b;
  std::memcpy(&a, &half, sizeof a);
  std::memcpy(&b, &rest, sizeof b);
  return p * a * b;
}
#endif

// e^x to about one unit in the last place: x = n·ln2 + r, a polynomial in r, and n added to the exponent (Cephes expf).
// Below −87.3 the result is 0, above 88.7 it is infinite; NaN is preserved.
inline Vec exp(Vec x) {
  const Vec low = splat(-87.33654f), high = splat(88.72283f);
  const Vec clamped = min(max(x, low), high);
  const Vec n = round_to_integer(clamped * 1.44269504f);
  const Vec r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  Vec y = scale_by_power(p, n);
  y = x < low ? Vec{} : y;
  y = x > high ? splat(__builtin_inff()) : y;
  return x != x ? x : y;
}

// 2^x to about one unit in the last place, for softmaxes that scale their scores by log2(e): n is the nearest integer,
// and the polynomial is the degree-6 minimax one on [−½, ½]. From 128 on the result is infinite; NaN is preserved;
// results below the normal range are 0, or subnormal with AVX-512.
inline Vec exp2(Vec x) {
#if defined(__AVX512F__)
  const Vec clamped = x;  // vscalefps handles 2^±∞, whatever the polynomial returns
#else
  const Vec clamped = min(max(x, splat(-126.0f)), splat(128.0f));
#endif
  const Vec n = round_to_integer(clamped), r = clamped - n;
  Vec p = splat(1.55946781613e-4f);
  p = p * r + 1.34066439024e-3f;
  p = p * r + 9.61769297299e-3f;
  p = p * r + 5.55031055101e-2f;
  p = p * r + 2.40226527829e-1f;
  p = p * r + 6.93147214968e-1f;
  p = p * r + 1.0f;
  const Vec y = scale_by_power(p, n);
#if defined(__AVX512F__)
  return y;
#else
  return x != x ? x : x < -126.0f ? Vec{} : y;
#endif
}

// Iterates over a row of n numbers as f(offset, count): count is kLanes for whole vectors, less for the last piece.
// Whole vectors pass a literal count, so that an inlined f has no branch.
template <class F>
inline void for_each_vec(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
  if (i < n) f(i, static_cast<int>(n - i));
}

template <class T>
inline Vec load(const T* p, int count) {
  return count == kLanes ? load(p) : load_first(p, count);
}
template <class T>
inline void store(T* p, Vec v, int count) {
  if (count == kLanes) {
    store(p, v);
  } else {
    store_first(p, v, count);
  }
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
