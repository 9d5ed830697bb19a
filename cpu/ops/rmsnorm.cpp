// Root-mean-square normalization. A row is read twice: from memory for the sum of its squares, then from the cache. The
// gradient of w is a sum over the tokens: each block of rows is summed separately, and the block sums are added in
// order.
#include <cstring>

#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/scratch.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

inline float rsqrt_of_mean(float sum, int64_t count, double eps) {
  return 1.0f / __builtin_sqrtf(sum / static_cast<float>(count) + static_cast<float>(eps));
}

template <class T>
inline void scale_row(T* y, const T* x, const T* w, float rstd, int64_t channels) {
  for_each_vec(channels,
               [&](int64_t i, int count) { store(y + i, load(x + i, count) * rstd * load(w + i, count), count); });
}

}  // namespace

void rmsnorm_forward(const RmsNormForward& args) {
  const int64_t tokens = args.x.shape[0], channels = args.x.shape[1];
  dispatch(args.x.dtype, [&]<class T>() {
    const T *x = args.x.data<T>(), *w = args.w.data<T>();
    T* y = args.y.data<T>();
    float* rstd = args.rstd.data<float>();
#pragma omp parallel for schedule(static) if (tokens * channels > kParallelElements)
    for (int64_t t = 0; t < tokens; ++t) {
      const T* row = x + t * channels;
      const float squares = sum_each_vec(channels, [&](int64_t i, int count) {
        const Vec v = load(row + i, count);
        return v * v;
      });
      rstd[t] = rsqrt_of_mean(squares, channels, args.eps);
      scale_row(y + t * channels, row, w, rstd[t], channels);
    }
  });
}

void add_rmsnorm_forward(const AddRmsNormForward& args) {
  const int64_t tokens = args.x.shape[0], channels = args.x.shape[1];
  dispatch(args.x.dtype, [&]<class T>() {
    const T *x = args.x.data<T>(), *delta = args.delta.data<T>(), *w = args.w.data<T>();
    T *y = args.y.data<T>(), *sum = args.sum.data<T>();
    float* rstd = args.rstd.data<float>();
#pragma omp parallel for schedule(static) if (tokens * channels > kParallelElements)
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t start = t * channels;
      T* row = sum + start;
      const float squares = sum_each_vec(channels, [&](int64_t i, int count) {
        store(row + i, load(x + start + i, count) + load(delta + start + i, count), count);
        const Vec v = load(row + i, count);  // as rounded
        return v * v;
      });
      rstd[t] = rsqrt_of_mean(squares, channels, args.eps);
      scale_row(y + start, row, w, rstd[t], channels);
    }
  });
}

void rmsnorm_backward(const RmsNormBackward& args) {
  const int64_t tokens = args.x.shape[0], channels = args.x.shape[1];
  const int64_t rows = tokens > 1024 ? (tokens + 63) / 64 : 16;  // per block; at most 64 blocks
  const int64_t blocks = (tokens + rows - 1) / rows;
  const float* rstd = args.rstd.data<float>();
  float* partial_dw = static_cast<float*>(scratch(blocks * channels * sizeof(float)));
  dispatch(args.x.dtype, [&]<class T>() {
    const T *dy = args.dy.data<T>(), *x = args.x.data<T>(), *w = args.w.data<T>();
    T* dx = args.dx.data<T>();
#pragma omp parallel for schedule(static) if (tokens * channels > kParallelElements)
    for (int64_t block = 0; block < blocks; ++block) {
      float* dw = partial_dw + block * channels;
      std::memset(dw, 0, channels * sizeof(float));
      const int64_t end = block + 1 < blocks ? (block + 1) * rows : tokens;
      for (int64_t t = block * rows; t < end; ++t) {
        const int64_t start = t * channels;
        const float dot = sum_each_vec(channels, [&](int64_t i, int count) {
          return load(dy + start + i, count) * load(w + i, count) * load(x + start + i, count);
        });
        const float mean = dot * rstd[t] / static_cast<float>(channels);
        for_each_vec(channels, [&](int64_t i, int count) {
          const Vec gradient = load(dy + start + i, count), normalised = load(x + start + i, count) * rstd[t];
          store(dw + i, load(dw + i, count) + gradient * normalised, count);
          const Vec change = (gradient * load(w + i, count) - normalised * mean) * rstd[t];
          store(dx + start + i, load(dx + start + i, count) + change, count);
        });
      }
    }
  });
  dispatch(args.dw.dtype, [&]<class G>() {
    G* dw = args.dw.data<G>();
    for_each_vec(channels, [&](int64_t i, int count) {
      Vec total{};
      for (int64_t block = 0; block < blocks; ++block) total += load(partial_dw + block * channels + i, count);
      store(dw + i, load(dw + i, count) + total, count);
    });
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
