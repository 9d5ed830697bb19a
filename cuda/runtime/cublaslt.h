// Matrix products by NVIDIA's cuBLASLt, which is opened at run time. emulator/cublaslt.cpp computes them on the host.
#pragma once

#include <string>

#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {

// c = alpha · op(a) · op(b) + beta · c on row-major matrices without gaps, as in core/ops.h; none of m, n, k is 0.
struct Product {
  void* c;
  const void *a, *b;
  DType c_dtype, ab_dtype;  // each float32 or bfloat16, but not float32 into bfloat16, which cuBLASLt does not support
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  float alpha, beta;
};

// Workspace of a product: cuBLAS recommends 32 MiB for Hopper, and uses that itself.
constexpr size_t kProductWorkspace = 32 << 20;

// Enqueues a product. `workspace` has kProductWorkspace bytes and is aligned to 256. Throws Error("LIBRARY_NOT_FOUND")
// at the first call if cuBLASLt cannot be opened, and Error("CUBLASLT") for products that it rejects.
void cublaslt_multiply(const Product& product, void* workspace, const Launcher& on);

// Opens cuBLASLt if it is not open yet, and returns its version: "13.1.1". Throws Error("LIBRARY_NOT_FOUND").
std::string open_cublaslt();

}  // namespace openalpaca::cuda
