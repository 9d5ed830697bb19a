#include "cpu/runtime/onednn.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include <dnnl.hpp>
#include <list>
#include <mutex>
#include <string>

#include "core/device.h"
#include "cpu/runtime/scratch.h"

namespace openalpaca::cpu {
namespace {

using dnnl::memory;

// Statics here are never destroyed: a stream's thread may still be running when the process ends.
const dnnl::engine& engine() {
  static const auto& cpu = *new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return cpu;
}

memory::desc describe(DType dtype, int64_t rows, int64_t columns, int64_t stride, bool transposed) {
  const auto type = dtype == DType::bfloat16 ? memory::data_type::bf16 : memory::data_type::f32;
  return memory::desc({rows, columns}, type, transposed ? memory::dims{1, stride} : memory::dims{stride, 1});
}

dnnl::primitive_attr attributes(float alpha, float beta) {
  dnnl::post_ops post;
  if (alpha != 1) {
#if DNNL_VERSION_MAJOR >= 3
    post.append_eltwise(dnnl::algorithm::eltwise_linear, alpha, 0);
#else
    post.append_eltwise(1, dnnl::algorithm::eltwise_linear, alpha, 0);
#endif
  }
  if (beta != 0) post.append_sum(beta);
  dnnl::primitive_attr attr;
  attr.set_post_ops(post);
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);  // so that threads can share a primitive
  return attr;
}

// AVX-512 without bfloat16 instructions: oneDNN emulates them, at a third of the speed of float32.
bool emulates_bfloat16() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return isa == dnnl::cpu_isa::avx512_core || isa == dnnl::cpu_isa::avx512_core_vnni;
}

// oneDNN partitions a product by the number of OpenMP threads, when it creates a primitive or when it runs it, and the
// order of the sums then depends on that number. The setting applies only to the calling OpenMP task.
class OneThread {
 public:
  OneThread() : threads_(omp_get_max_threads()) { omp_set_num_threads(1); }
  ~OneThread() { omp_set_num_threads(threads_); }

 private:
  int threads_;
};

}  // namespace

struct Gemm::Plan {
  GemmShape shape;
  memory::desc a, b, c, scratchpad;
  dnnl::matmul primitive;  // empty: not supported

  explicit Plan(const GemmShape& shape)
      : shape(shape),
        a(describe(shape.operands, shape.m, shape.k, shape.lda, shape.transpose_a)),
        b(describe(shape.operands, shape.k, shape.n, shape.ldb, shape.transpose_b)),
        c(describe(shape.result, shape.m, shape.n, shape.ldc, false)) {
    if (shape.operands == DType::bfloat16 && emulates_bfloat16()) return;
    const OneThread one_thread;
    const dnnl::primitive_attr attr = attributes(shape.alpha, shape.beta);
    try {
#if DNNL_VERSION_MAJOR >= 3
      const dnnl::matmul::primitive_desc description(engine(), a, b, c, attr);
#else
      const dnnl::matmul::primitive_desc description({a, b, c}, attr, engine());
#endif
      const bool reference = std::string(description.impl_info_str()).starts_with("ref");
      if (reference && shape.operands == DType::bfloat16) return;
      scratchpad = description.scratchpad_desc();
      primitive = dnnl::matmul(description);
    } catch (const dnnl::error& error) {
      if (error.status != dnnl_unimplemented) throw;
    }
  }
};

// Creating a plan takes up to a millisecond of code generation. A model needs a few dozen, and a few more for each new
// number of tokens; the least recently used are evicted.
std::shared_ptr<const Gemm::Plan> Gemm::find(const GemmShape& shape) {
  constexpr size_t kCapacity = 512;
  static auto& mutex = *new std::mutex;
  static auto& plans = *new std::list<std::shared_ptr<const Plan>>;  // most recently used first
  const std::lock_guard<std::mutex> lock(mutex);
  for (auto plan = plans.begin(); plan != plans.end(); ++plan) {
    if ((*plan)->shape == shape) {
      plans.splice(plans.begin(), plans, plan);
      return plans.front();
    }
  }
  plans.push_front(std::make_shared<const Plan>(shape));
  if (plans.size() > kCapacity) plans.pop_back();
  return plans.front();
}

Gemm::Gemm(const GemmShape& shape) try : plan_(find(shape)) {
} catch (const dnnl::error& error) {
  throw Error(error.status == dnnl_out_of_memory ? "OUT_OF_MEMORY" : "ONEDNN",
              std::string("matmul: oneDNN cannot make this product: ") + error.what());
}

Gemm::~Gemm() = default;

bool Gemm::supported() const { return static_cast<bool>(plan_->primitive); }

const char* Gemm::run(const void* a, const void* b, void* c) const noexcept {
  thread_local Scratch scratchpad;
  try {
    thread_local dnnl::stream stream(engine());
    const OneThread one_thread;
    plan_->primitive.execute(
        stream,
        {{DNNL_ARG_SRC, memory(plan_->a, engine(), const_cast<void*>(a))},
         {DNNL_ARG_WEIGHTS, memory(plan_->b, engine(), const_cast<void*>(b))},
         {DNNL_ARG_DST, memory(plan_->c, engine(), c)},
         {DNNL_ARG_SCRATCHPAD, memory(plan_->scratchpad, engine(), scratchpad.reserve(plan_->scratchpad.get_size()))}});
    stream.wait();
    return nullptr;
  } catch (const dnnl::error& error) {
    return dnnl_status2str(error.status);
  } catch (const std::exception&) {
    return "out of memory";
  }
}

std::string onednn_version() {
  const dnnl_version_t& version = *dnnl_version();
  return std::to_string(version.major) + "." + std::to_string(version.minor) + "." + std::to_string(version.patch);
}

}  // namespace openalpaca::cpu
