// cuBLASLt's matrices are column-major. A row-major matrix is the transpose of a column-major one, so the request is cᵀ
// = op(b)ᵀ · op(a)ᵀ: the operands are swapped, and their transpose flags stay the same.
//
// cuBLASLt's heuristic chooses a kernel from the shapes. That takes longer than a small product, so its choice is
// cached. Products are deterministic: the same shapes use the same kernel, and split sums are added in float32 in a
// fixed order.
#include "cuda/runtime/cublaslt.h"

#include <cublasLt.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "core/device.h"
#include "cuda/runtime/library.h"

namespace openalpaca::cuda {
namespace {

const LibraryNames kNames = {
    "cuBLASLt", {"libcublasLt.so.13", "libcublasLt.so.12"}, {"nvidia/cu13/lib", "nvidia/cublas/lib"}, "nvidia-cublas"};

#define OPENALPACA_CUBLASLT(X)            \
  X(cublasLtCreate)                       \
  X(cublasLtGetStatusString)              \
  X(cublasLtGetVersion)                   \
  X(cublasLtMatmul)                       \
  X(cublasLtMatmulAlgoGetHeuristic)       \
  X(cublasLtMatmulDescCreate)             \
  X(cublasLtMatmulDescDestroy)            \
  X(cublasLtMatmulDescSetAttribute)       \
  X(cublasLtMatmulPreferenceCreate)       \
  X(cublasLtMatmulPreferenceDestroy)      \
  X(cublasLtMatmulPreferenceSetAttribute) \
  X(cublasLtMatrixLayoutCreate)           \
  X(cublasLtMatrixLayoutDestroy)

// The cuBLASLt functions in use, with their declared types.
struct Functions {
#define OPENALPACA_MEMBER(name) decltype(&::name) name;
  OPENALPACA_CUBLASLT(OPENALPACA_MEMBER)
#undef OPENALPACA_MEMBER

  Functions() {
    void* library = open_library(kNames);
#define OPENALPACA_FIND(name) name = reinterpret_cast<decltype(name)>(find_function(library, kNames, #name));
    OPENALPACA_CUBLASLT(OPENALPACA_FIND)
#undef OPENALPACA_FIND
  }
};

// Opened once; after a failure, the next call tries again.
const Functions& lt() {
  static const Functions functions;
  return functions;
}

void check_lt(cublasStatus_t status, const Launcher& on, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error("CUBLASLT", std::string(on.op) + ": " + what + " failed: " + lt().cublasLtGetStatusString(status));
}

// The address's alignment in bytes (at most 256), for cuBLASLt's heuristic.
uint32_t alignment(const void* p) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p), lowest_bit = address & -address;
  return static_cast<uint32_t>(lowest_bit == 0 || lowest_bit > 256 ? 256 : lowest_bit);
}

cudaDataType_t type_of(DType dtype) { return dtype == DType::bfloat16 ? CUDA_R_16BF : CUDA_R_32F; }

// The descriptors of one product and the kernel chosen for it.
class Plan {
 public:
  Plan(cublasLtHandle_t handle, const Product& p, const Launcher& on) {
    // COMPUTE_32F does not use TF32: float32 training is true float32.
    check_lt(lt().cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), on, "cublasLtMatmulDescCreate");
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b, on);
    set_transposed(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a, on);
    a_ = layout(p.ab_dtype, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, on);
    b_ = layout(p.ab_dtype, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, on);
    c_ = layout(p.c_dtype, p.m, p.n, on);
    choose(handle, p, on);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    for (cublasLtMatrixLayout_t layout : {a_, b_, c_}) {
      if (layout) lt().cublasLtMatrixLayoutDestroy(layout);
    }
    if (product_) lt().cublasLtMatmulDescDestroy(product_);
  }

  void run(cublasLtHandle_t handle, const Product& p, void* workspace, const Launcher& on) const {
    check_lt(lt().cublasLtMatmul(handle, product_, &p.alpha, p.b, b_, p.a, a_, &p.beta, p.c, c_, p.c, c_, &algorithm_,
                                 workspace, kProductWorkspace, on.stream),
             on, "cublasLtMatmul");
  }

 private:
  void set_transposed(cublasLtMatmulDescAttributes_t which, bool transposed, const Launcher& on) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    check_lt(lt().cublasLtMatmulDescSetAttribute(product_, which, &operation, sizeof(operation)), on,
             "cublasLtMatmulDescSetAttribute");
  }

  // For a stored row-major matrix, whose rows are cuBLASLt's columns.
  static cublasLtMatrixLayout_t layout(DType dtype, int64_t rows, int64_t columns, const Launcher& on) {
    cublasLtMatrixLayout_t layout = nullptr;
    check_lt(lt().cublasLtMatrixLayoutCreate(&layout, type_of(dtype), columns, rows, columns), on,
             "cublasLtMatrixLayoutCreate");
    return layout;
  }

  void choose(cublasLtHandle_t handle, const Product& p, const Launcher& on) {
    cublasLtMatmulPreference_t created = nullptr;
    check_lt(lt().cublasLtMatmulPreferenceCreate(&created), on, "cublasLtMatmulPreferenceCreate");
    const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>,
                          cublasStatus_t (*)(cublasLtMatmulPreference_t)>
        preference(created, lt().cublasLtMatmulPreferenceDestroy);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t which, auto value) {
      check_lt(lt().cublasLtMatmulPreferenceSetAttribute(preference.get(), which, &value, sizeof(value)), on,
               "cublasLtMatmulPreferenceSetAttribute");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kProductWorkspace});
    // Partial sums are kept in the workspace in float32: accumulating in c would round each to c's dtype.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.b));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.a));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.c));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.c));

    cublasLtMatmulHeuristicResult_t best = {};
    int found = 0;
    const cublasStatus_t status =
        lt().cublasLtMatmulAlgoGetHeuristic(handle, product_, b_, a_, c_, c_, preference.get(), 1, &best, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && found == 0)) {
      throw Error("CUBLASLT", std::string(on.op) + ": cuBLASLt has no kernel for a product of " + name_of(p.ab_dtype) +
                                  " into " + name_of(p.c_dtype) + " with m = " + std::to_string(p.m) +
                                  ", n = " + std::to_string(p.n) + ", k = " + std::to_string(p.k));
    }
    check_lt(status, on, "cublasLtMatmulAlgoGetHeuristic");
    algorithm_ = best.algo;
  }

  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_;
};

// The inputs of the heuristic.
using Key = std::tuple<int64_t, int64_t, int64_t, DType, DType, bool, bool, std::array<uint32_t, 3>>;

Key key_of(const Product& p) {
  return {p.m,        p.n,           p.k,           p.c_dtype,
          p.ab_dtype, p.transpose_a, p.transpose_b, {alignment(p.a), alignment(p.b), alignment(p.c)}};
}

// The plans of one GPU. They are never destroyed: at process exit CUDA may be gone before them.
struct Plans {
  cublasLtHandle_t handle = nullptr;
  std::map<Key, Plan> plans;
};

std::mutex mutex;

Plans& plans_of_current_device(const Launcher& on) {
  static auto& all = *new std::map<int, Plans>;
  int device = 0;
  check(cudaGetDevice(&device), on.op);
  Plans& plans = all[device];
  if (!plans.handle) check_lt(lt().cublasLtCreate(&plans.handle), on, "cublasLtCreate");
  return plans;
}

}  // namespace

void cublaslt_multiply(const Product& product, void* workspace, const Launcher& on) {
  const std::lock_guard lock(mutex);
  Plans& known = plans_of_current_device(on);
  const Key key = key_of(product);
  auto entry = known.plans.find(key);
  if (entry == known.plans.end()) {
    entry = known.plans.try_emplace(key, known.handle, product, on).first;
  }
  entry->second.run(known.handle, product, workspace, on);
}

std::string open_cublaslt() {
  const size_t version = lt().cublasLtGetVersion();  // 130101, or 120804
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace openalpaca::cuda
