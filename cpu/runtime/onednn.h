// Matrix products by oneDNN. onednn.cpp is the one file that knows the library; it is compiled once, for oneDNN itself
// chooses code for the processor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/tensor.h"

namespace openalpaca::cpu {

// Of the library that was loaded: "2.6.3".
std::string onednn_version();

// All that a product is, but for the addresses of its operands. Sizes are of op(a): [m, k], op(b): [k, n] and
// c: [m, n], none of them 0; lda, ldb and ldc are the distances between stored rows, in elements.
struct GemmShape {
  DType operands = DType::float32, result = DType::float32;
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0, lda = 0, ldb = 0, ldc = 0;
  float alpha = 1, beta = 0;

  bool operator==(const GemmShape&) const = default;
};

// c = alpha · op(a) · op(b) + beta · c with float32 accumulation, made ready to run. The code is kept and shared by all
// products of the same shape.
class Gemm {
 public:
  explicit Gemm(const GemmShape& shape);  // throws Error("OUT_OF_MEMORY" or "ONEDNN")
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  // False where this processor computes the dtypes slower than it would as float32: run must not be called then.
  bool supported() const;

  // On the calling thread alone. Returns nullptr, or what oneDNN says has gone wrong.
  const char* run(const void* a, const void* b, void* c) const noexcept;

 private:
  struct Plan;
  static std::shared_ptr<const Plan> find(const GemmShape& shape);
  std::shared_ptr<const Plan> plan_;
};

}  // namespace openalpaca::cpu
