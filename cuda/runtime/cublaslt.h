// Matrix products by NVIDIA's cuBLASLt, which is opened at run time. emulator/cublaslt.cpp has a twin that
// computes them on the host.
#pragma once

#include <string>

#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {

// c = alpha · op(a) · op(b) + beta · c on row-major matrices without gaps, as core/ops.h has it; none of m, n, k is 0.
struct Product {
  void* c;
  const void *a, *b;
  DType c_dtype, ab_dtype;  // each float32 or bfloat16, but not float32 into bfloat16, which cuBLASLt does not have
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  float alpha, beta;
};

// Memory that a product wants for its own use: 32 MiB is what cuBLAS recommends for Hopper, and takes itself.
constexpr size_t kProductWorkspace = 32 << 20;

// Enqueues a product. `workspace` has kProductWorkspace bytes and is aligned to 256. Throws Error("LIBRARY_NOT_FOUND")
// at the first call where cuBLASLt cannot be opened, and Error("CUBLASLT") for what it refuses.
void cublaslt_multiply(const Product& product, void* workspace, const Launcher& on);

// Opens cuBLASLt, if it is not open yet; returns its version: "13.1.1". Throws Error("LIBRARY_NOT_FOUND").
std::string open_cublaslt();

}  // namespace openalpaca::cuda
