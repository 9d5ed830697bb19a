// Samples the next token, with the semantics of Transformers' logits processors, without sorting the vocabulary: a
// block has a sequence and keeps all its numbers in scratch memory, which stays in the caches.
//
// top_k and top_p each require a threshold: the highest one that keeps k tokens, or a share p of the probability. A
// float32 has 32 bits, so sixteen sums over the vocabulary that settle two bits each find it exactly. A search that
// counts in bins (radix select) takes fewer rounds, but threads would contend for the bins of a few common exponents.
#include "core/philox.h"
#include "cuda/kernel.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kTokenRule = 0, kFiniteRule = 1;  // of report(): the kind of error
constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kCandidates = 3;  // thresholds per round: those that settle two bits

// The settings of one sequence.
struct Settings {
  float temperature, repetition_penalty, top_p;
  int top_k;
  uint64_t seed;
};

// The settings of all sequences.
struct Batch {
  Global<const float> temperature, repetition_penalty, top_p;
  Global<const int> top_k, seeds;
  __device__ Settings operator[](int64_t b) const {
    return {temperature[b], repetition_penalty[b], top_p[b], top_k[b],
            static_cast<uint32_t>(seeds[2 * b]) | static_cast<uint64_t>(static_cast<uint32_t>(seeds[2 * b + 1])) << 32};
  }
};

// Shared memory through which a block's threads communicate.
struct Board {
  Shared<float> sums;  // [kCandidates, kMaxWarps]
  Shared<int> found;   // one
  __device__ explicit Board(SharedMemory& memory)
      : sums(memory.take<float>(kCandidates * kMaxWarps, "sums")), found(memory.take<int>(1, "found")) {}
  static constexpr int kBytes =
      SharedMemory::round_up(kCandidates * kMaxWarps * sizeof(float)) + SharedMemory::round_up(sizeof(int));
};

// ---- sums over the vocabulary ---------------------------------------------------------------------------------------

// Replaces x by its sums over the block, in a fixed order.
template <int K>
__device__ void sum_block(float (&x)[K], const Board& board) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
#pragma unroll
  for (int k = 0; k < K; ++k) x[k] = warp_reduce<Sum>(x[k]);
  if (warps == 1) return;
  __syncthreads();  // the board may still hold the previous sums
  if (lane == 0) {
#pragma unroll
    for (int k = 0; k < K; ++k) board.sums[k * kMaxWarps + warp] = x[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) x[k] = warp_reduce<Sum>(lane < warps ? board.sums[k * kMaxWarps + lane] : 0.f);
}

// Σ value(i) over [0, n).
template <class Value>
__device__ float sum_all(int n, const Board& board, Value value) {
  float sum[1] = {};
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum[0] += value(i);
  sum_block(sum, board);
  return sum[0];
}

// The number at a given rank in the total order of float32 (in which the bits of negative numbers are inverted). Past
// the infinities it is NaN, which excludes every logit.
__device__ float at_order(uint32_t order) { return __uint_as_float(order & 0x80000000 ? order & 0x7fffffff : ~order); }

// The highest threshold such that the logits at or above it have a mass of at least `target`; −∞ if the total mass is
// smaller.
template <class Mass>
__device__ float highest_threshold(int n, Global<const float> logits, const Board& board, float target, Mass mass) {
  uint32_t order = 0;
  for (int shift = 30; shift >= 0; shift -= 2) {
    float thresholds[kCandidates], sums[kCandidates] = {};
#pragma unroll
    for (int j = 0; j < kCandidates; ++j) thresholds[j] = at_order(order | (j + 1u) << shift);
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      const float x = logits[i], weight = mass(i);
#pragma unroll
      for (int j = 0; j < kCandidates; ++j) sums[j] += x >= thresholds[j] ? weight : 0;
    }
    sum_block(sums, board);
    uint32_t bits = 0;
    bool exact = false;
#pragma unroll
    for (int j = 0; j < kCandidates; ++j) {
      if (sums[j] < target) continue;
      bits = j + 1;
      exact = sums[j] == target;
    }
    order |= bits << shift;
    if (exact) break;
  }
  const float found = at_order(order);
  return found == found ? found : -INFINITY;
}

// The first i at which the running sum of values exceeds limit(their total); if rounding lets none do so, the last i
// with a nonzero value. Each warp sums a part of [0, n); the one whose part contains the limit then scans it.
template <class Limit, class Value>
__device__ int first_exceeding(int n, const Board& board, Limit limit, Value value) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int part = static_cast<int>(ceil_div(n, warps));
  const auto end_of = [&](int w) { return (w + 1) * part < n ? (w + 1) * part : n; };
  float sum = 0;
  for (int i = warp * part + lane; i < end_of(warp); i += kWarp) sum += value(i);
  sum = warp_reduce<Sum>(sum);
  __syncthreads();
  if (lane == 0) board.sums[warp] = sum;
  __syncthreads();

  double total = 0, passed = 0;
  for (int w = 0; w < warps; ++w) total += board.sums[w];
  const double target = limit(total);
  int chosen = 0;
  double before = 0;
  for (int w = 0; w < warps; ++w) {
    if (board.sums[w] == 0) continue;
    chosen = w;
    before = passed;
    passed += board.sums[w];
    if (passed > target) break;
  }

  if (warp == chosen) {
    int found = chosen * part;
    for (int first = chosen * part; first < end_of(chosen); first += kWarp) {
      const int i = first + lane;
      const float mine = i < end_of(chosen) ? value(i) : 0;
      float running = mine;
#pragma unroll
      for (int step = 1; step < kWarp; step *= 2) {
        const float left = __shfl_up_sync(kAllLanes, running, step);
        if (lane >= step) running += left;
      }
      const unsigned some = __ballot_sync(kAllLanes, mine > 0);
      const unsigned past = __ballot_sync(kAllLanes, mine > 0 && before + running > target);
      before += __shfl_sync(kAllLanes, running, kWarp - 1);
      if (past) {
        found = first + __ffs(past) - 1;
        break;
      }
      if (some) found = first + kWarp - 1 - __clz(some);
    }
    if (lane == 0) board.found[0] = found;
  }
  __syncthreads();
  return board.found[0];
}

// ---- the steps ------------------------------------------------------------------------------------------------------

// scores = logits / temperature, after the penalty. Returns the largest; NaN if the logits are not finite, and −∞ if a
// token of the history is outside the vocabulary, which it reports.
template <class T>
__device__ float score(Global<float> scores, Global<const T> logits, int n, Global<const int> history, int position,
                       const Settings& settings, Global<Fault> fault, int op, const Board& board) {
  const float divisor = settings.temperature == 0 ? 1 : settings.temperature, penalty = settings.repetition_penalty;
  float bad[2] = {};  // logits, tokens
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float x = to_float(logits[i]) / divisor;
    scores[i] = x;
    if (!(x < INFINITY)) bad[0] = 1;
  }
  if (penalty != 1) {
    __syncthreads();
    for (int t = threadIdx.x; t <= position; t += blockDim.x) {
      const int token = history[t];
      if (token < 0 || token >= n) {
        report(fault, op, t, token, n, kTokenRule);
        bad[1] = 1;
        continue;
      }
      const float x = to_float(logits[token]);  // the original logit: once per token, however often it occurs
      scores[token] = (x < 0 ? x * penalty : x / penalty) / divisor;
    }
  }
  sum_block(bad, board);
  __syncthreads();
  float largest = -INFINITY;
  for (int i = threadIdx.x; i < n; i += blockDim.x) largest = fmaxf(largest, scores[i]);
  largest = block_reduce<Max>(largest, board.sums);
  return bad[1] > 0 ? -INFINITY : bad[0] > 0 || isinf(largest) ? NAN : largest;
}

// Zeros the masses of all but the smallest set of the largest scores that has a share p of the mass. Among equal scores
// the later tokens are kept, as with a stable sort.
__device__ void keep_top_p(Global<float> masses, Global<const float> scores, int n, float largest, double p,
                           const Board& board) {
  const auto mass = [&](int i) { return masses[i]; };
  const float share = static_cast<float>(p * sum_all(n, board, mass)), target = share > 0 ? share : 0x1p-126f;
  const float threshold = highest_threshold(n, scores, board, target, mass);
  const auto is_tie = [&](int i) { return scores[i] == threshold ? 1.f : 0.f; };
  const float above = sum_all(n, board, [&](int i) { return scores[i] > threshold ? masses[i] : 0.f; });
  const float ties = sum_all(n, board, is_tie);
  // Of the ties, keep as many as the share requires, and at least one token in all.
  const double tie = expf(threshold - largest);
  const double wanted = tie > 0 ? ceil((static_cast<double>(target) - above) / tie) : ties;
  const double kept = fmin(fmax(wanted, above == 0 ? 1.0 : 0.0), ties);
  const int cut = kept <= 0 ? n : first_exceeding(n, board, [&](double all) { return all - kept; }, is_tie);
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    if (scores[i] < threshold || (scores[i] == threshold && i < cut)) masses[i] = 0;
  }
  __syncthreads();
}

// 53 random bits in [0, 1).
__device__ double uniform(uint64_t seed, int sequence_seed, int position) {
  const PhiloxWords random = philox(seed, position, static_cast<uint32_t>(sequence_seed));
  return ((random.word[0] >> 5) * 67108864.0 + (random.word[1] >> 6)) * 0x1p-53;
}

__device__ int draw(Global<float> masses, Global<const float> scores, int n, float largest, const Settings& settings,
                    double random, const Board& board) {
  float threshold = -INFINITY;
  if (settings.top_k > 0 && settings.top_k < n) {
    threshold = highest_threshold(n, scores, board, static_cast<float>(settings.top_k), [](int) { return 1.f; });
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    masses[i] = scores[i] >= threshold ? expf(scores[i] - largest) : 0;
  }
  __syncthreads();
  if (settings.top_p < 1) keep_top_p(masses, scores, n, largest, settings.top_p, board);
  return first_exceeding(n, board, [&](double total) { return random * total; }, [&](int i) { return masses[i]; });
}

template <class T>
__global__ void __launch_bounds__(kMaxThreads, 1)
    sample_kernel(Global<int> ids, Global<int> positions, Global<int> history, Global<const T> logits,
                  Global<const int> sequence_seeds, Global<float> scratch, Batch batch, int n, int length,
                  Global<Fault> fault, int op) {
  SharedMemory memory;
  const Board board(memory);
  const int64_t b = blockIdx.x;
  const int position = positions[b];
  if (position < 0 || position >= length - 1) return;

  const Settings settings = batch[b];
  const Global<float> scores = scratch + b * 2 * n, masses = scores + n;
  const float largest = score(scores, logits + b * n, n, history + b * length, position, settings, fault, op, board);
  if (largest == -INFINITY) return;
  if (largest != largest) {
    if (threadIdx.x == 0) report(fault, op, b, 0, 0, kFiniteRule);
    return;
  }
  int token;
  if (settings.temperature == 0) {
    token =
        first_exceeding(n, board, [](double) { return 0.0; }, [&](int i) { return scores[i] == largest ? 1.f : 0.f; });
  } else {
    token = draw(masses, scores, n, largest, settings, uniform(settings.seed, sequence_seeds[b], position), board);
  }
  if (threadIdx.x == 0) {
    positions[b] = position + 1;
    ids[b] = token;
    history[b * length + position + 1] = token;
  }
}

// At least eight elements per thread.
int choose_threads(int64_t n) {
  const int64_t warps = ceil_div(n, 8 * kWarp);
  return static_cast<int>(warps < kMaxWarps ? warps : kMaxWarps) * kWarp;
}

}  // namespace

void sample(const Sample& args, const Launcher& on) {
  const int64_t batch = args.logits.shape[0], n = args.logits.shape[1];
  if (batch == 0) return;
  const Batch settings = {global<const float>(args.temperature), global<const float>(args.repetition_penalty),
                          global<const float>(args.top_p), global<const int>(args.top_k),
                          global<const int>(args.seeds)};
  with_float(args.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(on, sample_kernel<T>, static_cast<unsigned>(batch), choose_threads(n > 0 ? n : 1), Board::kBytes,
           global<int>(args.ids), global<int>(args.positions), global<int>(args.history), global<const T>(args.logits),
           global<const int>(args.sequence_seeds), global<float>(args.scratch), settings, static_cast<int>(n),
           static_cast<int>(args.history.shape[1]), global<Fault>(on.fault, 1), on.op_index);
  });
}

}  // namespace openalpaca::cuda
