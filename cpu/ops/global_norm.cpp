// The sum of squares of a flat shard. A few thousand elements at a time are summed in float32, and these sums in double
// within blocks whose size depends only on n; the sums of the blocks are then added in order.
#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

void global_norm(const GlobalNorm& args) {
  constexpr int64_t kPiece = 4096, kMaxBlocks = 512;
  const int64_t n = args.x.numel(), pieces = (n + kPiece - 1) / kPiece;
  const int64_t block = (1 + pieces / kMaxBlocks) * kPiece;
  double sums[kMaxBlocks] = {};
  dispatch(args.x.dtype, [&]<class T>() {
    const T* x = args.x.data<T>();
    for_each_block(n, block, [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t i = begin; i < end; i += kPiece) {
        sum += sum_each_vec(end - i < kPiece ? end - i : kPiece, [&](int64_t j, int count) {
          const Vec v = load(x + i + j, count);
          return v * v;
        });
      }
      sums[begin / block] = sum;
    });
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  *args.out.data<float>() = static_cast<float>(total);
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
