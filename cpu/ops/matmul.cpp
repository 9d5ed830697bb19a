// Matrix products: our own code for a few rows of input (matvec.h), oneDNN for the rest.
//
// The result is tiled by its shape, and one thread computes a whole tile. That fixes the order of the sums, which
// oneDNN's own partitioning changes with the number of threads, and costs nothing: a tile's operands stay in the cache.
// Dtypes without a fast oneDNN kernel on this processor are converted to float32 tile by tile.
#include <omp.h>

#include <cstring>

#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/ops/matvec.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/onednn.h"
#include "cpu/runtime/scratch.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

// A stored matrix, indexed as op() of it.
struct Operand {
  char* data;
  DType dtype;
  int64_t stride;  // between stored rows, in elements
  bool transposed;

  Operand(const Tensor& x, bool transposed = false)
      : data(x.data<char>()), dtype(x.dtype), stride(x.shape[1]), transposed(transposed) {}
  void* at(int64_t i, int64_t j) const {
    return data + (transposed ? j * stride + i : i * stride + j) * static_cast<int64_t>(size_of(dtype));
  }
};

// [0, n) in `count` parts of `size`; the last may be smaller.
struct Cut {
  int64_t size, count, last_size;

  Cut(int64_t n, int64_t size) : size(size), count((n + size - 1) / size), last_size(n - (count - 1) * size) {}
  int64_t size_of_part(int64_t i) const { return i + 1 < count ? size : last_size; }
};

struct Product {
  Operand a, b, c;
  int64_t k;
  float alpha, beta;
  Cut rows, columns;  // tiles of c
};

// Tiles are 256 × 256, or smaller if that would yield too few.
Product cut_into_tiles(const MatMul& args, int64_t m, int64_t n, int64_t k) {
  int64_t height = m < 256 ? m : 256, width = n < 256 ? n : 256;
  while (Cut(m, height).count * Cut(n, width).count < 32 && (height > 64 || width > 64)) {
    int64_t& larger = height > width ? height : width;
    larger = (larger + 1) / 2;
  }
  return {Operand(args.a, args.transpose_a), Operand(args.b, args.transpose_b), Operand(args.c), k,
          static_cast<float>(args.alpha),    static_cast<float>(args.beta),     Cut(m, height),  Cut(n, width)};
}

// The code for the tiles of a product. Tiles in the last row and the last column may be smaller.
class TileCode {
 public:
  TileCode(const Product& p, const GemmShape& shape)
      : inner_(with_size(shape, p.rows.size, p.columns.size)),
        right_(with_size(shape, p.rows.size, p.columns.last_size)),
        lower_(with_size(shape, p.rows.last_size, p.columns.size)),
        corner_(with_size(shape, p.rows.last_size, p.columns.last_size)) {}

  bool supported() const { return inner_.supported(); }
  const Gemm& of(const Product& p, int64_t i, int64_t j) const {
    if (i + 1 < p.rows.count) return j + 1 < p.columns.count ? inner_ : right_;
    return j + 1 < p.columns.count ? lower_ : corner_;
  }

 private:
  static GemmShape with_size(GemmShape shape, int64_t m, int64_t n) {
    shape.m = m;
    shape.n = n;
    return shape;
  }

  Gemm inner_, right_, lower_, corner_;
};

// Calls f(i, j) for each tile, which returns nullptr or an error message. Finishes one column of tiles before the next,
// while its part of b is in the cache.
template <class F>
void for_each_tile(const Product& p, F&& f) {
  const char* error = nullptr;
#pragma omp parallel for schedule(dynamic)
  for (int64_t tile = 0; tile < p.rows.count * p.columns.count; ++tile) {
    const char* failure = f(tile % p.rows.count, tile / p.rows.count);
    if (failure) {
#pragma omp atomic write
      error = failure;
    }
  }
  if (error) fail("ONEDNN", MatMul::name, error);
}

// Does nothing and returns false if oneDNN has no fast code for the dtypes.
bool multiply(const Product& p) {
  const TileCode code(p, {p.a.dtype, p.c.dtype, p.a.transposed, p.b.transposed, 0, 0, p.k, p.a.stride, p.b.stride,
                          p.c.stride, p.alpha, p.beta});
  if (!code.supported()) return false;
  for_each_tile(p, [&](int64_t i, int64_t j) {
    const int64_t row = i * p.rows.size, column = j * p.columns.size;
    return code.of(p, i, j).run(p.a.at(row, 0), p.b.at(0, column), p.c.at(row, column));
  });
  return true;
}

template <class To, class From>
void convert(To* to, int64_t to_stride, const From* from, int64_t from_stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    for_each_vec(columns, [&](int64_t j, int count) {
      store(to + i * to_stride + j, load(from + i * from_stride + j, count), count);
    });
  }
}

// Converts the rows × columns of op(x) from (i, j) on; they keep x's storage order.
void widen(float* to, int64_t stride, const Operand& x, int64_t i, int64_t j, int64_t rows, int64_t columns) {
  dispatch(x.dtype, [&]<class T>() {
    const T* from = static_cast<const T*>(x.at(i, j));
    convert(to, stride, from, x.stride, x.transposed ? columns : rows, x.transposed ? rows : columns);
  });
}

// multiply via float32. Long sums are computed in panels, which limits a thread's operands to a few megabytes; the last
// panel is padded with zeros.
void multiply_converted(const Product& p) {
  const int64_t panels = (p.k + 2047) / 2048;
  const Cut depths(p.k, (p.k + panels - 1) / panels);
  const int64_t height = p.rows.size, width = p.columns.size, depth = depths.size;
  const bool c_is_float = p.c.dtype == DType::float32;
  GemmShape shape{DType::float32, DType::float32, p.a.transposed, p.b.transposed};
  shape.k = depth;
  shape.lda = p.a.transposed ? height : depth;
  shape.ldb = p.b.transposed ? depth : width;
  shape.ldc = c_is_float ? p.c.stride : width;
  shape.alpha = p.alpha;
  shape.beta = p.beta;
  const TileCode first(p, shape);
  shape.beta = 1;
  const TileCode following(p, shape);

  const int64_t size = height * depth + depth * width + height * width;
  float* buffers = static_cast<float*>(scratch(omp_get_max_threads() * size * sizeof(float)));
  for_each_tile(p, [&](int64_t i, int64_t j) -> const char* {
    float *a = buffers + omp_get_thread_num() * size, *b = a + height * depth, *sum = b + depth * width;
    const int64_t row = i * height, rows = p.rows.size_of_part(i);
    const int64_t column = j * width, columns = p.columns.size_of_part(j);
    if (!c_is_float && p.beta != 0) widen(sum, width, p.c, row, column, rows, columns);
    for (int64_t panel = 0; panel < depths.count; ++panel) {
      const int64_t k = panel * depth, used = depths.size_of_part(panel);
      if (used < depth) std::memset(a, 0, (height + width) * depth * sizeof(float));
      widen(a, shape.lda, p.a, row, k, rows, used);
      widen(b, shape.ldb, p.b, k, column, used, columns);
      const TileCode& code = panel == 0 ? first : following;
      if (const char* error = code.of(p, i, j).run(a, b, c_is_float ? p.c.at(row, column) : sum)) return error;
    }
    if (!c_is_float) convert(static_cast<bf16*>(p.c.at(row, column)), p.c.stride, sum, width, rows, columns);
    return nullptr;
  });
}

// An empty sum: c = beta · c.
void scale(const Tensor& c, float beta) {
  dispatch(c.dtype, [&]<class T>() {
    T* p = c.data<T>();
    for_each_vec(c.numel(),
                 [&](int64_t i, int count) { store(p + i, beta == 0 ? Vec{} : load(p + i, count) * beta, count); });
  });
}

// The product with a few rows; reads the weights once.
void multiply_few_rows(const MatMul& args, int64_t m, int64_t n, int64_t k) {
  dispatch(args.a.dtype, [&]<class W>() {
    using Input = typename Dot<W>::Input;
    const Input* x = args.a.data<Input>();
    if constexpr (sizeof(Input) != sizeof(W)) {
      float* widened = static_cast<float*>(scratch(m * k * sizeof(float)));
      convert(widened, k, args.a.data<W>(), k, m, k);
      x = widened;
    }
    dispatch(args.c.dtype, [&]<class C>() {
      matvec(args.c.data<C>(), x, args.b.data<W>(), m, n, k, static_cast<float>(args.alpha),
             static_cast<float>(args.beta));
    });
  });
}

}  // namespace

void matmul(const MatMul& args) {
  const int64_t m = args.c.shape[0], n = args.c.shape[1], k = args.a.shape[args.transpose_a ? 0 : 1];
  if (m == 0 || n == 0) return;
  if (k == 0) return scale(args.c, static_cast<float>(args.beta));
  if (m <= kMaxMatVecRows && !args.transpose_a && args.transpose_b) return multiply_few_rows(args, m, n, k);
  const Product product = cut_into_tiles(args, m, n, k);
  if (!multiply(product)) multiply_converted(product);
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
