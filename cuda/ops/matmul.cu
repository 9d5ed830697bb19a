// Matrix products: matvec for a few rows of input (limited by one pass over the weights), cuBLASLt for the rest.
#include "cuda/kernel.cuh"
#include "cuda/ops/matvec.h"
#include "cuda/runtime/cublaslt.h"

namespace openalpaca::cuda {
namespace {

enum class Method { matvec, cublaslt };

// Chooses the kernel for a product c [m, n] over k:
// clang-format off
//   operands           chips   kernel     reason
//   few rows, a · bᵀ   all     matvec     the layout of a linear layer: reads whole rows of weights in order
//   all others         all     cublaslt   has tensor core kernels for each chip
// clang-format on
Method choose(const Chip&, const MatMul& args, int64_t m) {
  const bool linear_layer = !args.transpose_a && args.transpose_b;
  return linear_layer && m <= kMaxMatVecRows ? Method::matvec : Method::cublaslt;
}

// c = product + beta · c; without a product, c = beta · c. If beta is 0, c is not read: its contents may be undefined.
template <class C, bool kHasProduct>
__global__ void add_scaled(Global<C> c, Global<const float> product, int64_t count, float beta) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const float before = beta == 0 ? 0 : beta * to_float(c[i]);
  c[i] = from_float<C>(kHasProduct ? product[i] + before : before);
}

template <bool kHasProduct>
void launch_add_scaled(const MatMul& args, float* product, const Launcher& on) {
  constexpr int kThreads = 256;
  const int64_t count = args.c.numel();
  with_float(args.c.dtype, [&](auto zero) {
    using C = decltype(zero);
    launch(on, add_scaled<C, kHasProduct>, static_cast<unsigned>(ceil_div(count, kThreads)), kThreads, 0,
           global<C>(args.c), global<const float>(product, kHasProduct ? count : 0), count,
           static_cast<float>(args.beta));
  });
}

void multiply(const MatMul& args, int64_t m, int64_t n, int64_t k, const Launcher& on) {
  Product product = {args.c.raw(),
                     args.a.raw(),
                     args.b.raw(),
                     args.c.dtype,
                     args.a.dtype,
                     args.transpose_a,
                     args.transpose_b,
                     m,
                     n,
                     k,
                     static_cast<float>(args.alpha),
                     static_cast<float>(args.beta)};
  if (args.a.dtype == DType::bfloat16 || args.c.dtype == DType::float32) {
    return cublaslt_multiply(product, on.workspace(kProductWorkspace), on);
  }
  // float32 into bfloat16, which cuBLASLt does not support, is rounded from a float32 result.
  char* workspace = static_cast<char*>(on.workspace(kProductWorkspace + m * n * sizeof(float)));
  float* rounded_later = reinterpret_cast<float*>(workspace + kProductWorkspace);
  product.c = rounded_later;
  product.c_dtype = DType::float32;
  product.beta = 0;
  cublaslt_multiply(product, workspace, on);
  launch_add_scaled<true>(args, rounded_later, on);
}

}  // namespace

void matmul(const MatMul& args, const Launcher& on) {
  const int64_t m = args.c.shape[0], n = args.c.shape[1], k = args.a.shape[args.transpose_a ? 0 : 1];
  if (m == 0 || n == 0) return;
  if (k == 0) return launch_add_scaled<false>(args, nullptr, on);
  switch (choose(on.chip, args, m)) {
    case Method::matvec:
      return matvec(args, on);
    case Method::cublaslt:
      return multiply(args, m, n, k, on);
  }
}

}  // namespace openalpaca::cuda
