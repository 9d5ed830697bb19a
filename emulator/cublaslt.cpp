// Emulator counterpart of cuda/runtime/cublaslt.cpp: computes on the host in stream order. Products are summed in
// float32, as on tensor cores, in a fixed order.
#include "cuda/runtime/cublaslt.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace openalpaca::cuda {
namespace {

constexpr int64_t kRows = 4, kDepth = 256, kColumns = 512;  // a block's operands stay in the first-level caches

float to_number(float x) { return x; }
float to_number(__nv_bfloat16 x) { return __bfloat162float(x); }
void round_to(float& to, float x) { to = x; }
void round_to(__nv_bfloat16& to, float x) { to = __float2bfloat16_rn(x); }

// op(x) [rows, columns] in float32.
template <class T>
std::vector<float> widen(const void* data, bool transposed, int64_t rows, int64_t columns) {
  const T* x = static_cast<const T*>(data);
  std::vector<float> all(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j)
      all[i * columns + j] = to_number(x[transposed ? j * rows + i : i * columns + j]);
  }
  return all;
}

// sums [m, n] += a [m, k] · b [k, n]
void multiply(float* sums, const float* a, const float* b, int64_t m, int64_t n, int64_t k) {
  for (int64_t column = 0; column < n; column += kColumns) {
    const int64_t width = std::min(kColumns, n - column);
    for (int64_t depth = 0; depth < k; depth += kDepth) {
      const int64_t end = std::min(depth + kDepth, k);
      for (int64_t row = 0; row < m; row += kRows) {
        const int64_t last = std::min(row + kRows, m);
        for (int64_t l = depth; l < end; ++l) {
          const float* from = b + l * n + column;
          for (int64_t i = row; i < last; ++i) {
            const float factor = a[i * k + l];
            float* to = sums + i * n + column;
            for (int64_t j = 0; j < width; ++j) to[j] += factor * from[j];
          }
        }
      }
    }
  }
}

template <class AB, class C>
void compute(const Product& p) {
  const std::vector<float> a = widen<AB>(p.a, p.transpose_a, p.m, p.k), b = widen<AB>(p.b, p.transpose_b, p.k, p.n);
  std::vector<float> sums(p.m * p.n);
  multiply(sums.data(), a.data(), b.data(), p.m, p.n, p.k);
  C* c = static_cast<C*>(p.c);
  for (int64_t i = 0; i < p.m * p.n; ++i) {
    round_to(c[i], p.beta == 0 ? p.alpha * sums[i] : p.alpha * sums[i] + p.beta * to_number(c[i]));
  }
}

void compute(const Product& p) {
  if (p.ab_dtype == DType::float32) return compute<float, float>(p);
  if (p.c_dtype == DType::float32) return compute<__nv_bfloat16, float>(p);
  compute<__nv_bfloat16, __nv_bfloat16>(p);
}

}  // namespace

void cublaslt_multiply(const Product& product, void* workspace, const Launcher& on) {
  // The contents that cuBLASLt leaves there are unspecified, but it does overwrite the workspace.
  const auto run = [product, workspace] {
    std::memset(workspace, 0xff, std::min<size_t>(kProductWorkspace, 4096));
    compute(product);
  };
  check(emulator::enqueue(on.stream, run), on.op);
}

std::string open_cublaslt() { return "emulated"; }

}  // namespace openalpaca::cuda
