// Softmax, loss, accuracy, and gradient of the logits, row by row: the first pass over a row reads it from memory, the
// others from the cache.
#include <math.h>

#include <cstring>

#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

template <class T>
float max_of_row(const T* row, int64_t n) {
  Vec m[2] = {splat(-__builtin_inff()), splat(-__builtin_inff())};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
    m[0] = max(m[0], load(row + i));
    m[1] = max(m[1], load(row + i + kLanes));
  }
  float largest = max(max(m[0], m[1]));
  for (; i < n; ++i) largest = to_float(row[i]) > largest ? to_float(row[i]) : largest;
  return largest;
}

// Whether row[label], which is the row's maximum, is its first occurrence.
template <class T>
bool is_first(const T* row, int64_t label, float largest) {
  for (int64_t i = 0; i < label; ++i) {
    if (to_float(row[i]) == largest) return false;
  }
  return true;
}

}  // namespace

void cross_entropy(const CrossEntropy& args) {
  const int64_t tokens = args.logits.shape[0], vocabulary = args.logits.shape[1];
  const int32_t* labels = args.labels.data<int32_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    if (labels[t] >= vocabulary) fail_index(CrossEntropy::name, "label", labels[t], vocabulary);
  }
  const float* weights = args.weights.data<float>();
  float* losses = args.losses.data<float>();
  int32_t* correct = args.correct.data<int32_t>();
  dispatch(args.logits.dtype, [&]<class T>() {
    T* logits = args.logits.data<T>();
    // Which rows are ignored is not known in advance, so threads take rows dynamically.
#pragma omp parallel for schedule(dynamic) if (tokens * vocabulary > kParallelElements)
    for (int64_t t = 0; t < tokens; ++t) {
      T* row = logits + t * vocabulary;
      const int64_t label = labels[t];
      if (label < 0) {
        losses[t] = 0;
        correct[t] = 0;
        if (args.write_gradient) std::memset(row, 0, vocabulary * sizeof(T));
        continue;
      }
      const float largest = max_of_row(row, vocabulary), target = to_float(row[label]);
      const float total = sum_each_vec(vocabulary, [&](int64_t i, int count) {
        const Vec e = exp(load(row + i, count) - largest);
        return count == kLanes ? e : load_first(reinterpret_cast<const float*>(&e), count);
      });
      losses[t] = logf(total) + (largest - target);
      correct[t] = target == largest && is_first(row, label, largest);
      if (!args.write_gradient) continue;
      const float scale = weights[t] / total;
      for_each_vec(vocabulary,
                   [&](int64_t i, int count) { store(row + i, exp(load(row + i, count) - largest) * scale, count); });
      from_float(exp(splat(target - largest))[0] * scale - weights[t], row[label]);
    }
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
