// The choice of the next token, as Transformers' processors make it, without sorting the vocabulary. What top_k and
// top_p ask for is a threshold: the k-th largest logit, or the logit at which the mass of the smaller ones passes
// 1 − top_p. Both are found digit by digit on the numbers' bits, in four passes over the vocabulary.
#include "cpu/dtypes.h"
#include "cpu/errors.h"
#include "cpu/isa.h"
#include "cpu/philox.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

// Bits that compare as the floats do.
inline uint32_t order_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// Walks the digits of the order from the highest down. At each, `weight` sums up the numbers that share the prefix
// found so far, by their next digit, and the first digit from the smallest whose running sum exceeds `limit` is taken.
// Returns the smallest order at which the sum over all not larger ones exceeds the limit.
template <class Weight>
uint32_t threshold(const float* x, int64_t n, double limit, Weight&& weight) {
  uint32_t prefix = 0, known = 0;
  double below = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    double sums[256] = {};
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t order = order_of(x[i]);
      if ((order & known) == prefix) sums[order >> shift & 255] += weight(i);
    }
    int digit = 0, last = 0;
    for (int d = 0; d < 256; ++d) {
      if (sums[d] > 0) last = d;
    }
    for (; digit < last && below + sums[digit] <= limit; ++digit) below += sums[digit];
    prefix |= static_cast<uint32_t>(digit) << shift;
    known |= uint32_t{255} << shift;
  }
  return prefix;
}

// Applies the penalty once to each token of the history, whatever its count there (Keskar et al. 2019).
void penalize(float* logits, const int32_t* history, int64_t count, int64_t vocabulary, float penalty, float* marks) {
  for (int64_t i = 0; i < vocabulary; ++i) marks[i] = 0;
  check_indices(Sample::name, "token", history, count, vocabulary);
  for (int64_t i = 0; i < count; ++i) {
    float& logit = logits[history[i]];
    if (marks[history[i]] == 0) logit = logit > 0 ? logit / penalty : logit * penalty;
    marks[history[i]] = 1;
  }
}

int64_t first_largest(const float* x, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i) {
    if (x[i] > x[best]) best = i;
  }
  return best;
}

// A draw from the softmax of the logits that top_k and top_p leave. `mass` is room for n numbers.
int64_t draw(const float* logits, int64_t n, const Sample& args, double random, float* mass) {
  uint32_t least = 0;
  if (args.top_k > 0 && args.top_k < n) {
    least = threshold(logits, n, static_cast<double>(n - args.top_k), [](int64_t) { return 1.0; });
  }
  const float largest = logits[first_largest(logits, n)];
  double total = 0;
  for (int64_t i = 0; i < n; ++i) {
    mass[i] = order_of(logits[i]) < least ? 0 : __builtin_expf(logits[i] - largest);
    total += mass[i];
  }
  if (args.top_p < 1) {
    const uint32_t nucleus = threshold(logits, n, (1 - args.top_p) * total, [&](int64_t i) { return double{mass[i]}; });
    total = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (order_of(logits[i]) < nucleus) mass[i] = 0;
      total += mass[i];
    }
  }
  const double target = random * total;
  double passed = 0;
  int64_t chosen = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (mass[i] == 0) continue;
    chosen = i;
    passed += mass[i];
    if (passed > target) break;
  }
  return chosen;
}

// 53 random bits in [0, 1).
double uniform(const Sample& args, int32_t sequence_seed, int32_t position) {
  const PhiloxWords random = philox(args.seed, position, static_cast<uint32_t>(sequence_seed));
  return ((random.word[0] >> 5) * 67108864.0 + (random.word[1] >> 6)) * 0x1p-53;
}

}  // namespace

void sample(const Sample& args) {
  const int64_t batch = args.logits.shape[0], n = args.logits.shape[1], capacity = args.history.shape[1];
  int32_t* positions = args.positions.data<int32_t>();
  dispatch(args.logits.dtype, [&]<class T>() {
    for (int64_t b = 0; b < batch; ++b) {
      int32_t& position = positions[b];
      if (position < 0 || position >= capacity - 1) continue;
      float* logits = args.scratch.data<float>() + b * 2 * n;
      float* room = logits + n;
      int32_t* history = args.history.data<int32_t>() + b * capacity;
      const T* given = args.logits.data<T>() + b * n;
      for (int64_t i = 0; i < n; ++i) logits[i] = to_float(given[i]);
      if (args.repetition_penalty != 1) {
        penalize(logits, history, position + 1, n, static_cast<float>(args.repetition_penalty), room);
      }
      int64_t token;
      if (args.temperature > 0) {
        for (int64_t i = 0; i < n; ++i) logits[i] /= static_cast<float>(args.temperature);
        token = draw(logits, n, args, uniform(args, args.sequence_seeds.data<int32_t>()[b], position), room);
      } else {
        token = first_largest(logits, n);
      }
      history[++position] = static_cast<int32_t>(token);
      args.ids.data<int32_t>()[b] = static_cast<int32_t>(token);
    }
  });
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
