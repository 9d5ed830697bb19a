// Samples the next token, with the semantics of Transformers' logits processors, without sorting the vocabulary. top_k
// and top_p each require a threshold: the highest one that keeps k tokens, or a share p of the probability. It is found
// by bisection over the 32 bits of a float32: 32 sums over the vocabulary, which stays in the cache, determine it
// exactly.
#include <omp.h>

#include "core/philox.h"
#include "cpu/ops/dtypes.h"
#include "cpu/ops/loops.h"
#include "cpu/runtime/errors.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/scratch.h"

namespace openalpaca::cpu::OPENALPACA_ISA {
namespace {

constexpr int64_t kBlock = 1024;

// The tokens that can still be drawn.
struct Candidates {
  float *logits, *masses;
  int32_t* ids;  // ascending; null while it includes all tokens
  int64_t count;
  int32_t id(int64_t i) const { return ids ? ids[i] : static_cast<int32_t>(i); }
};

// The number at a given rank in the total order of float32 (in which the bits of negative numbers are inverted).
float at_order(uint32_t order) {
  const uint32_t bits = order & 0x80000000 ? order & 0x7fffffff : ~order;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// The highest threshold such that the logits at or above it have a mass of at least `target`; −∞ if the total mass is
// smaller.
float highest_threshold(const Candidates& c, float target) {
  uint32_t order = 0;
  for (uint32_t bit = 0x80000000; bit; bit >>= 1) {
    const float threshold = at_order(order | bit);  // past the infinities a NaN, which excludes every logit
    const float mass = sum_each_vec(
        c.count, [&](int64_t i, int n) { return load(c.logits + i, n) >= threshold ? load(c.masses + i, n) : Vec{}; });
    if (mass >= target) order |= bit;
    if (mass == target) break;
  }
  const float found = at_order(order);
  return found == found ? found : -__builtin_inff();
}

float largest_logit(const Candidates& c) {
  Vec largest = splat(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= c.count; i += kLanes) largest = max(largest, load(c.logits + i));
  float m = max(largest);
  for (; i < c.count; ++i) m = c.logits[i] > m ? c.logits[i] : m;
  return m;
}

// Masses are summed in float32 within blocks, and across blocks in float64.
float block_mass(const Candidates& c, int64_t begin) {
  const int64_t n = c.count - begin < kBlock ? c.count - begin : kBlock;
  return sum_each_vec(n, [&](int64_t i, int count) { return load(c.masses + begin + i, count); });
}

double total_mass(const Candidates& c) {
  double total = 0;
  for (int64_t begin = 0; begin < c.count; begin += kBlock) total += block_mass(c, begin);
  return total;
}

// Keeps the k largest logits and any ties with the smallest of them.
void keep_top_k(Candidates& c, int64_t k, int32_t* ids) {
  for (int64_t i = 0; i < c.count; ++i) c.masses[i] = 1;
  const float threshold = highest_threshold(c, static_cast<float>(k));
  int64_t kept = 0;
  for (int64_t i = 0; i < c.count; ++i) {
    ids[kept] = static_cast<int32_t>(i);
    c.logits[kept] = c.logits[i];
    kept += c.logits[i] >= threshold;
  }
  c.ids = ids;
  c.count = kept;
}

// Zeros the masses of all but the smallest set of the largest logits that has a share p of the mass. Among equal logits
// the later tokens are kept, as with a stable sort.
void keep_top_p(const Candidates& c, double p) {
  const float target = static_cast<float>(p * total_mass(c));
  const float threshold = highest_threshold(c, target > 0 ? target : 0x1p-126f);
  double above = 0;
  for (int64_t i = 0; i < c.count; ++i) {
    if (c.logits[i] > threshold) above += c.masses[i];
  }
  for (int64_t i = c.count - 1; i >= 0; --i) {
    if (c.logits[i] > threshold) continue;
    if (c.logits[i] == threshold && (above < target || above == 0)) {
      above += c.masses[i];
    } else {
      c.masses[i] = 0;
    }
  }
}

// The first candidate at which the cumulative mass exceeds the given share of the total.
int64_t draw(const Candidates& c, double share) {
  const double target = share * total_mass(c);
  double passed = 0;
  int64_t block = 0, chosen = 0;
  for (int64_t begin = 0; begin < c.count; begin += kBlock) {
    const float mass = block_mass(c, begin);
    if (mass == 0) continue;
    block = begin;
    if (passed + mass > target) break;
    passed += mass;
  }
  for (int64_t i = block; i < c.count && i < block + kBlock; ++i) {
    if (c.masses[i] == 0) continue;
    chosen = i;
    passed += c.masses[i];
    if (passed > target) break;
  }
  return chosen;
}

// The settings of one sequence.
struct Settings {
  float temperature, repetition_penalty;
  double top_p;
  int64_t top_k;
  uint64_t seed;
  uint32_t sequence_seed;
};

Settings settings_of(const Sample& args, int64_t b) {
  const uint32_t* seed = reinterpret_cast<const uint32_t*>(args.seeds.data<int32_t>()) + 2 * b;
  return {args.temperature.data<float>()[b],
          args.repetition_penalty.data<float>()[b],
          args.top_p.data<float>()[b],
          args.top_k.data<int32_t>()[b],
          seed[0] | static_cast<uint64_t>(seed[1]) << 32,
          static_cast<uint32_t>(args.sequence_seeds.data<int32_t>()[b])};
}

// 53 random bits in [0, 1).
double uniform(const Settings& settings, int32_t position) {
  const PhiloxWords random = philox(settings.seed, position, settings.sequence_seed);
  return ((random.word[0] >> 5) * 67108864.0 + (random.word[1] >> 6)) * 0x1p-53;
}

// The token that follows a history of position + 1 tokens; −1 if the logits are not finite. ids holds n elements.
template <class T>
int32_t choose(const Settings& settings, const T* logits, int64_t n, const int32_t* history, int32_t position,
               float* room, int32_t* ids) {
  const float temperature = settings.temperature, penalty = settings.repetition_penalty;
  const bool greedy = temperature == 0;
  const float divisor = greedy ? 1 : temperature;
  Candidates c = {room, room + n, nullptr, n};
  VecI finite = lane_index() == lane_index();
  for_each_vec(n, [&](int64_t i, int count) {
    const Vec x = load(logits + i, count) / divisor;
    finite &= x < __builtin_inff();
    store(c.logits + i, x, count);
  });
  if (penalty != 1) {
    for (int32_t t = 0; t <= position; ++t) {  // from the original logits: once per token, however often it occurs
      const float x = to_float(logits[history[t]]);
      c.logits[history[t]] = (x < 0 ? x * penalty : x / penalty) / divisor;
    }
  }
  const float largest = largest_logit(c);
  for (int i = 0; i < kLanes; ++i) {
    if (!finite[i]) return -1;
  }
  if (!(largest > -__builtin_inff() && largest < __builtin_inff())) return -1;
  if (greedy) {
    int32_t first = 0;
    while (c.logits[first] != largest) ++first;
    return first;
  }
  if (settings.top_k > 0 && settings.top_k < n) keep_top_k(c, settings.top_k, ids);
  for_each_vec(c.count,
               [&](int64_t i, int count) { store(c.masses + i, exp(load(c.logits + i, count) - largest), count); });
  if (settings.top_p < 1) keep_top_p(c, settings.top_p);
  return c.id(draw(c, uniform(settings, position)));
}

}  // namespace

void sample(const Sample& args) {
  const int64_t batch = args.logits.shape[0], n = args.logits.shape[1], capacity = args.history.shape[1];
  int32_t *positions = args.positions.data<int32_t>(), *history = args.history.data<int32_t>();
  int32_t* tokens = args.ids.data<int32_t>();
  const auto finished = [&](int64_t b) { return positions[b] < 0 || positions[b] >= capacity - 1; };
  for (int64_t b = 0; b < batch; ++b) {
    if (args.repetition_penalty.data<float>()[b] != 1 && !finished(b))
      check_indices(Sample::name, "token", history + b * capacity, positions[b] + 1, n);
  }
  int32_t* ids = static_cast<int32_t*>(scratch(omp_get_max_threads() * n * sizeof(int32_t)));
  int64_t failed = batch;
  dispatch(args.logits.dtype, [&]<class T>() {
#pragma omp parallel for schedule(dynamic, 1) reduction(min : failed) if (batch > 1)
    for (int64_t b = 0; b < batch; ++b) {
      if (finished(b)) continue;
      const int32_t token =
          choose(settings_of(args, b), args.logits.data<T>() + b * n, n, history + b * capacity, positions[b],
                 args.scratch.data<float>() + b * 2 * n, ids + omp_get_thread_num() * n);
      if (token < 0) {
        failed = b < failed ? b : failed;
        continue;
      }
      positions[b] += 1;
      tokens[b] = history[b * capacity + positions[b]] = token;
    }
  });
  if (failed < batch) fail_logits(Sample::name, failed);
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
