// Matrix products by oneDNN. Only onednn.cpp uses the library; it is compiled once, since oneDNN itself selects code
// for the processor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/tensor.h"

namespace openalpaca::cpu {

// The version of the loaded library: "2.6.3".
std::string onednn_version();

// The full description of a product, except for the addresses of its operands. op(a) is [m, k], op(b) is [k, n], and c
// is [m, n], none of them 0; lda, ldb, and ldc are the distances between stored rows, in elements.
struct GemmShape {
  DType operands = DType::float32, result = DType::float32;
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0, lda = 0, ldb = 0, ldc = 0;
  float alpha = 1, beta = 0;

  bool operator==(const GemmShape&) const = default;
};

// c = alpha · op(a) · op(b) + beta · c with float32 accumulation, ready to run. All products of the same shape share
// the cached code.
class Gemm {
 public:
  explicit Gemm(const GemmShape& shape);  // throws Error("OUT_OF_MEMORY" or "ONEDNN")
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // False if this processor is slower with the dtypes than with float32: then run must not be called.
  bool supported() const;

  // Runs on the calling thread only. Returns nullptr, or oneDNN's error message.
  const char* run(const void* a, const void* b, void* c) const noexcept;

 private:
  struct Plan;
  static std::shared_ptr<const Plan> find(const GemmShape& shape);
  std::shared_ptr<const Plan> plan_;
};

}  // namespace openalpaca::cpu
