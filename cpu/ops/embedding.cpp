// Table lookup of rows by id, and accumulation of their gradients.
#include <omp.h>

#include <cstring>

#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

void embedding_forward(const EmbeddingForward& args) {
  const int64_t tokens = args.out.shape[0], channels = args.out.shape[1];
  const int32_t* ids = args.ids.data<int32_t>();
  check_indices(EmbeddingForward::name, "id", ids, tokens, args.w.shape[0]);
  const size_t row = channels * size_of(args.w.dtype);
  char* out = args.out.data<char>();
  const char* w = args.w.data<char>();
#pragma omp parallel for schedule(static) if (tokens * channels > kParallelElements)
  for (int64_t t = 0; t < tokens; ++t) std::memcpy(out + t * row, w + ids[t] * row, row);
}

// Two tokens may have the same row. So the threads divide the columns, and each goes through all tokens in order: no
// locks, and a deterministic sum.
void embedding_backward(const EmbeddingBackward& args) {
  const int64_t tokens = args.dout.shape[0], channels = args.dout.shape[1];
  const int32_t* ids = args.ids.data<int32_t>();
  check_indices(EmbeddingBackward::name, "id", ids, tokens, args.dw.shape[0]);
  constexpr int64_t kColumns = 32;  // at least one cache line of either matrix
  const int64_t slices = (channels + kColumns - 1) / kColumns;
  dispatch(args.dw.dtype, [&]<class G>() {
    dispatch(args.dout.dtype, [&]<class A>() {
      G* dw = args.dw.data<G>();
      const A* dout = args.dout.data<A>();
#pragma omp parallel if (tokens * channels > kParallelElements)
      {
        const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
        const int64_t begin = slices * thread / threads * kColumns;
        int64_t end = slices * (thread + 1) / threads * kColumns;
        if (end > channels) end = channels;
        for (int64_t t = 0; t < tokens; ++t) {
          G* to = dw + ids[t] * channels + begin;
          const A* from = dout + t * channels + begin;
          for_each_vec(end - begin, [&](int64_t i, int count) {
            store(to + i, load(to + i, count) + load(from + i, count), count);
          });
        }
      }
    });
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
