// Fill and cast: limited by memory bandwidth, in blocks small enough to distribute and large enough for the prefetcher.
#include <cstring>

#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

// IEEE half precision. Checkpoints use it; no other op computes in it.
struct fp16 {
  uint16_t bits;
};

#if defined(__AVX512F__)
inline Vec load(const fp16* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline void store(fp16* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
inline Vec load(const fp16* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline void store(fp16* p, Vec v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#else
inline VecU bits_of(Vec v) {
  VecU bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline Vec from_bits(VecU bits) {
  Vec v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

// Shifts exponent and mantissa into float32's layout, whose bias is 112 greater: a multiplication corrects that, and
// normalizes subnormal numbers. Infinities and NaNs get the largest exponent instead.
inline Vec load(const fp16* p) {
  VecU16 half;
  std::memcpy(&half, p, sizeof half);
  const VecU wide = __builtin_convertvector(half, VecU);
  const VecU sign = (wide & 0x8000) << 16, magnitude = (wide & 0x7fff) << 13;
  const VecU special = (VecU)(magnitude >= 0x7c00 << 13);
  const VecU finite = bits_of(from_bits(magnitude) * 0x1p112f);
  return from_bits(sign | (finite & ~special) | ((magnitude | 0x7f800000) & special));
}

// Adding and subtracting 2^23 quanta, a quantum being the last place of the resulting half, rounds to nearest even;
// then the bias is changed as above. Values that round to 65536 or more become infinity, whose bits are those of 65536.
inline void store(fp16* p, Vec v) {
  const VecU bits = bits_of(v), magnitude = bits & 0x7fffffff;
  const Vec clamped = min(from_bits(magnitude), splat(65536.0f));
  const VecU exponent = bits_of(max(clamped, splat(0x1p-14f))) & 0x7f800000;
  const Vec shift = from_bits(exponent + (13 << 23));
  const VecU rounded = bits_of(((clamped + shift) - shift) * 0x1p-112f) >> 13;
  const VecU is_nan = (VecU)(magnitude > 0x7f800000);
  const VecU finite = rounded & ~is_nan, quiet = (0x7e00 | (magnitude >> 13)) & 0x7fff & is_nan;
  const VecU16 half = __builtin_convertvector(((bits >> 16) & 0x8000) | finite | quiet, VecU16);
  std::memcpy(p, &half, sizeof half);
}
#endif

inline Vec load_first(const fp16* p, int n) {
  fp16 lanes[kLanes] = {};
  std::memcpy(lanes, p, n * sizeof(fp16));
  return load(lanes);
}
inline void store_first(fp16* p, Vec v, int n) {
  fp16 lanes[kLanes];
  store(lanes, v);
  std::memcpy(p, lanes, n * sizeof(fp16));
}

namespace {

constexpr int64_t kBlock = 8192;  // elements

// Unlike store in vec.h, exact for subnormal numbers on every processor.
template <class T>
inline void store_exactly(T* p, Vec v, int count) {
  store(p, v, count);
}
inline void store_exactly(bf16* p, Vec v, int count) {
  const VecU16 half = round_to_bf16(v);
  std::memcpy(p, &half, count * sizeof(bf16));
}

template <class F>
void dispatch_floating_point(DType dtype, F&& f) {
  if (dtype == DType::float16) {
    f.template operator()<fp16>();
  } else {
    dispatch(dtype, f);
  }
}

template <class T>
void fill_with(const Tensor& x, T value) {
  T* p = x.data<T>();
  for_each_block(x.numel(), kBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) p[i] = value;
  });
}

}  // namespace

void fill(const Fill& args) {
  if (args.x.dtype == DType::int32) return fill_with(args.x, static_cast<int32_t>(args.value));
  dispatch_floating_point(args.x.dtype, [&]<class T>() {
    T values[kLanes];
    store(values, splat(static_cast<float>(args.value)));
    fill_with(args.x, values[0]);
  });
}

void cast(const Cast& args) {
  const int64_t n = args.src.numel();
  if (args.src.dtype == args.dst.dtype) {
    const size_t size = size_of(args.src.dtype);
    char* dst = args.dst.data<char>();
    const char* src = args.src.data<char>();
    for_each_block(n, kBlock, [&](int64_t begin, int64_t end) {
      std::memmove(dst + begin * size, src + begin * size, (end - begin) * size);
    });
    return;
  }
  if (args.src.dtype == DType::int32 || args.dst.dtype == DType::int32) {
    fail("UNSUPPORTED_DTYPE", Cast::name, "int32 cannot be cast to or from another dtype");
  }
  dispatch_floating_point(args.src.dtype, [&]<class S>() {
    dispatch_floating_point(args.dst.dtype, [&]<class D>() {
      const S* src = args.src.data<S>();
      D* dst = args.dst.data<D>();
      for_each_block(n, kBlock, [&](int64_t begin, int64_t end) {
        for_each_vec(end - begin, [&](int64_t i, int count) {
          store_exactly(dst + begin + i, load(src + begin + i, count), count);
        });
      });
    });
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
