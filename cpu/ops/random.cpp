// Normal random numbers for new weights: four from each Philox counter, by the Box–Muller transform. Element i depends
// only on the seed, the tensor's stream, and i, so that threads share no state.
#include <cmath>

#include "core/philox.h"
#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

void random_normal(const RandomNormal& args) {
  const int64_t n = args.x.shape[0];
  const float std = static_cast<float>(args.std);
  dispatch(args.x.dtype, [&]<class T>() {
    T* x = args.x.data<T>();
    for_each_block(n, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i += 4) {
        const PhiloxWords random = philox(args.seed, i / 4, args.stream_id);
        float draws[4];
        for (int pair = 0; pair < 4; pair += 2) {
          const float radius = sqrtf(-2 * logf(unit_open(random.word[pair])));
          const float angle = 6.283185307f * unit_open(random.word[pair + 1]);
          draws[pair] = radius * cosf(angle);
          draws[pair + 1] = radius * sinf(angle);
        }
        for (int64_t j = i; j < end && j < i + 4; ++j) from_float(std * draws[j - i], x[j]);
      }
    });
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
