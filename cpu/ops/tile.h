// Small matrix products for attention, with operands that fit in the cache: packing, product, unpacking.
//
// Packed operands consist of 32-bit words, so that float32 and bfloat16 share every layout. With AVX512-BF16 a word of
// a bfloat16 operand is two adjacent numbers along the summed dimension, the unit of dpbf16ps; everywhere else it is
// one float32, to which packing widens bfloat16. kPack is the number of elements per word.
//
// A product is c[m, n] (+)= Σ_k a(m, k) · b[k, n] with n along the vector lanes: words of b are loaded as vectors and
// words of a are broadcast, so a may have any strides. Three packings of a block x[n, D] cover all products of
// attention:
//
//   pack_rows        [n, D/kPack]    on the left of a sum over D
//   pack_transposed  [D/kPack, n]    on the right of a sum over D
//   pack_pairs       [n/kPack, D]    on the right of a sum over n, or with its strides exchanged on the left of one
#pragma once

#include "cpu/ops/vec.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

typedef float Word;  // 32 bits, whatever they encode

// The element type of packed operands, and the number of elements per word.
#if defined(__AVX512BF16__)
template <class T>
using Packed = T;
#else
template <class T>
using Packed = float;
#endif
template <class T>
constexpr int kPack = sizeof(Word) / sizeof(Packed<T>);

// A product keeps kRows × kCols accumulators, kCols vectors of b, and one of a in registers. 4 × 4 keeps dpbf16ps busy
// (one per cycle, latency of six) with one load for every two.
constexpr int kRows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kCols = 4;
#elif defined(__AVX2__)
constexpr int kCols = 3;
#else
constexpr int kCols = 2;
#endif

constexpr int round_up(int64_t n, int unit) { return static_cast<int>((n + unit - 1) / unit * unit); }

// ---- products -----------------------------------------------------------------------------------------------------

inline Vec splat_word(const Word* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof word);
  const VecU words = word - VecU{};
  Vec v;
  std::memcpy(&v, &words, sizeof v);
  return v;
}

// acc + a · b in every lane; the sum of two products if words are pairs.
template <class T>
inline Vec multiply_add(Vec acc, Vec a, Vec b) {
#if defined(__AVX512BF16__)
  if constexpr (kPack<T> == 2) return (Vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
#endif
  return acc + a * b;
}

// The left operand of a product: its word (m, k) is data[m · row + k · step].
struct Left {
  const Word* data;
  int64_t row, step;
};

template <class T, int cols>
inline void product_columns(float* c, int64_t ldc, int rows, Left a, const Word* b, int64_t ldb, int depth,
                            bool accumulate) {
  for (int m = 0; m < rows; m += kRows, c += kRows * ldc, a.data += kRows * a.row) {
    Vec acc[kRows][cols];
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < cols; ++j) acc[r][j] = accumulate ? load(c + r * ldc + j * kLanes) : Vec{};
    }
    for (int k = 0; k < depth; ++k) {
      Vec right[cols];
      for (int j = 0; j < cols; ++j) right[j] = load(b + k * ldb + j * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec left = splat_word(a.data + r * a.row + k * a.step);
        for (int j = 0; j < cols; ++j) acc[r][j] = multiply_add<T>(acc[r][j], left, right[j]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < cols; ++j) store(c + r * ldc + j * kLanes, acc[r][j]);
    }
  }
}

// c[rows, columns] = a · b, or += with accumulate; depth counts words. rows is a multiple of kRows, columns of kLanes.
template <class T>
inline void product(float* c, int64_t ldc, int rows, int columns, Left a, const Word* b, int64_t ldb, int depth,
                    bool accumulate) {
  int n = 0;
  for (; n + kCols * kLanes <= columns; n += kCols * kLanes) {
    product_columns<T, kCols>(c + n, ldc, rows, a, b + n, ldb, depth, accumulate);
  }
  const int rest = (columns - n) / kLanes;
  if constexpr (kCols > 3) {
    if (rest == 3) product_columns<T, 3>(c + n, ldc, rows, a, b + n, ldb, depth, accumulate);
  }
  if constexpr (kCols > 2) {
    if (rest == 2) product_columns<T, 2>(c + n, ldc, rows, a, b + n, ldb, depth, accumulate);
  }
  if (rest == 1) product_columns<T, 1>(c + n, ldc, rows, a, b + n, ldb, depth, accumulate);
}

// ---- shuffles ---------------------------------------------------------------------------------------------------

#if defined(__AVX512F__)
#define OPENALPACA_LOW_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define OPENALPACA_HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define OPENALPACA_LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define OPENALPACA_HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define OPENALPACA_LOW_HALVES 0, 4, 1, 5
#define OPENALPACA_HIGH_HALVES 2, 6, 3, 7
#endif
#if defined(__clang__)
#define OPENALPACA_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define OPENALPACA_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, VecI{__VA_ARGS__})
#endif

inline Vec shuffle_low(Vec a, Vec b) { return OPENALPACA_SHUFFLE(a, b, OPENALPACA_LOW_HALVES); }
inline Vec shuffle_high(Vec a, Vec b) { return OPENALPACA_SHUFFLE(a, b, OPENALPACA_HIGH_HALVES); }

// A square of words: each round interleaves the two halves of the rows like a perfect shuffle, log2(kLanes) times.
inline void transpose(Vec (&rows)[kLanes]) {
  for (int round = 1; round < kLanes; round *= 2) {
    Vec next[kLanes];
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = shuffle_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = shuffle_high(rows[i], rows[i + kLanes / 2]);
    }
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// Lane i of the result is the sum over the lanes of row i: the same shuffles, each followed by an addition.
inline Vec sum_rows(Vec (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i)
      rows[i] = shuffle_low(rows[i], rows[i + half]) + shuffle_high(rows[i], rows[i + half]);
  }
  return rows[0];
}

// ---- packing ------------------------------------------------------------------------------------------------------

// `count` words of a row, starting at the given one.
template <class T>
inline Vec row_words(const T* row, int64_t word, int count) {
  if constexpr (kPack<T> == 1) {
    return load(row + word, count);
  } else {
    return load(reinterpret_cast<const float*>(row) + word, count);
  }
}

// The words of two rows that are adjacent along the summed dimension, rounded to nearest even if a word is a pair.
// Otherwise each row has separate words, and these are the first row's.
template <class T>
inline Vec pair_up(Vec low, Vec high) {
#if defined(__AVX512BF16__)
  if constexpr (kPack<T> == 2) {
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Vec)_mm512_maskz_permutexvar_epi16(~0u, order, halves);
  }
#endif
  return low;
}

// In all three, x is [n, d] with rows `stride` elements apart, and rows from n to `padded` are zero.

// dst[padded, d / kPack rounded up to kLanes]; the padding is zero.
template <class T>
inline void pack_rows(Word* dst, const T* x, int64_t stride, int n, int padded, int d) {
  const int words = d / kPack<T>, ldd = round_up(words, kLanes);
  for (int i = 0; i < padded; ++i, dst += ldd) {
    for_each_vec(words,
                 [&](int64_t w, int count) { store(dst + w, i < n ? row_words(x + i * stride, w, count) : Vec{}); });
  }
}

// dst[d / kPack, lanes]; writes its first `padded` columns, a multiple of kLanes.
template <class T>
inline void pack_transposed(Word* dst, int lanes, const T* x, int64_t stride, int n, int padded, int d) {
  const int words = d / kPack<T>;
  for (int i = 0; i < padded; i += kLanes) {
    for_each_vec(words, [&](int64_t w, int count) {
      Vec square[kLanes];
      for (int r = 0; r < kLanes; ++r) square[r] = i + r < n ? row_words(x + (i + r) * stride, w, count) : Vec{};
      transpose(square);
      for (int r = 0; r < count; ++r) store(dst + (w + r) * lanes + i, square[r]);
    });
  }
}

// dst[padded / kPack, d rounded up to kLanes]; the padding is zero.
template <class T>
inline void pack_pairs(Word* dst, const T* x, int64_t stride, int n, int padded, int d) {
  const int ldd = round_up(d, kLanes);
  for (int i = 0; i < padded; i += kPack<T>, dst += ldd) {
    for_each_vec(d, [&](int64_t j, int count) {
      const Vec low = i < n ? load(x + i * stride + j, count) : Vec{};
      if constexpr (kPack<T> == 1) {
        store(dst + j, low);
      } else {
        const Vec high = i + 1 < n ? load(x + (i + 1) * stride + j, count) : Vec{};
        store(dst + j, (Vec)((VecU)low >> 16 | (VecU)high));  // bfloat16s are the upper halves of float32s
      }
    });
  }
}

// The inverse of pack_rows: y[n, d], rows `stride` elements apart, from columns of src[d, lanes] times scale[lane]. src
// has readable rows up to d rounded up to kLanes, and columns up to n rounded up to kLanes.
template <class T>
inline void unpack_transposed(T* y, int64_t stride, const float* src, int lanes, const float* scale, int n, int d) {
  for (int i = 0; i < n; i += kLanes) {
    const Vec factor = load(scale + i);
    for_each_vec(d, [&](int64_t j, int count) {
      Vec square[kLanes];
      for (int r = 0; r < kLanes; ++r) square[r] = load(src + (j + r) * lanes + i) * factor;
      transpose(square);
      for (int r = 0; r < kLanes && i + r < n; ++r) store(y + (i + r) * stride + j, square[r], count);
    });
  }
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
