// Rotary position embedding (Su et al., arXiv:2104.09864) in Hugging Face's half-split form, in place on the query and
// key heads of the packed projections. Sines and cosines come from tables, so θ and its scaling are up to the model.
#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

// A direction of −1 rotates back.
void rotate(const char* op, const RopeForward& args, float direction) {
  const int64_t tokens = args.qkv.shape[0], half = args.cos.shape[1];
  const int64_t rotated = args.num_heads + args.num_kv_heads, heads = rotated + args.num_kv_heads;
  const int32_t* positions = args.positions.data<int32_t>();
  check_indices(op, "position", positions, tokens, args.cos.shape[0]);
  dispatch(args.qkv.dtype, [&]<class T>() {
    T* qkv = args.qkv.data<T>();
    const float *cos_table = args.cos.data<float>(), *sin_table = args.sin.data<float>();
#pragma omp parallel for schedule(static) if (tokens * rotated * half > kParallelElements)
    for (int64_t t = 0; t < tokens; ++t) {
      const float *cosines = cos_table + positions[t] * half, *sines = sin_table + positions[t] * half;
      for (T *head = qkv + t * heads * 2 * half, *end = head + rotated * 2 * half; head != end; head += 2 * half) {
        for_each_vec(half, [&](int64_t i, int n) {
          const Vec cos = load(cosines + i, n), sin = load(sines + i, n) * direction;
          const Vec x1 = load(head + i, n), x2 = load(head + half + i, n);
          store(head + i, x1 * cos - x2 * sin, n);
          store(head + half + i, x2 * cos + x1 * sin, n);
        });
      }
    }
  });
}

}  // namespace

void rope_forward(const RopeForward& args) { rotate(RopeForward::name, args, 1); }
void rope_backward(const RopeBackward& args) { rotate(RopeBackward::name, args, -1); }

}  // namespace openalpaca::cpu::OPENALPACA_ISA
