// Softmax, loss, accuracy, and gradient of the logits. A block processes a row, and keeps it in registers between its
// two passes: logits are read once and their gradient is written once. 512 threads with eight pieces of 16 bytes hold a
// vocabulary of 32768 in bfloat16 and leave registers for a second block, which overlaps its memory accesses with this
// block's computation. The part of a row that does not fit is read again.
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kPieces = 8;  // of a row, per thread
constexpr int kMostThreads = 1024;
template <bool kWide>
constexpr int kKept = kWide ? kPieces : 0;  // a row that is read element by element is not kept
constexpr float kLog2e = 1.4426950408889634f;

// Calls f(piece, its first column) for this thread's pieces: the kept ones first, then the rest of the row from memory.
template <class T, bool kWide, class F>
__device__ __forceinline__ void for_my_pieces(const Piece<T> (&kept)[kPieces], Global<const T> row, int columns,
                                              F&& f) {
#pragma unroll
  for (int j = 0; j < kKept<kWide>; ++j) f(fresh(kept[j]), piece_column<T>(j));
  for (int j = kKept<kWide>; piece_column<T>(j) < columns; ++j) {
    f(load_piece<T, kWide>(row, piece_column<T>(j), columns, from_float<T>(-INFINITY)), piece_column<T>(j));
  }
}

// Reads the logits and writes their gradient: 4 bytes per element in bfloat16; ignored rows are not read. The first
// pass is an online softmax (Milakov & Gimelshein 2018, arXiv:1805.02867): a thread's sum is relative to the largest
// logit so far, so it can be updated while later pieces are still loading.
template <class T, bool kWide>
__global__ void __launch_bounds__(kMostThreads)
    cross_entropy_kernel(Global<T> logits, Global<float> losses, Global<int32_t> correct, Global<const int32_t> labels,
                         Global<const float> weights, int columns, bool write_gradient, Global<Fault> fault, int op) {
  constexpr int kN = kVector<T>;
  SharedMemory memory;
  const Shared<float> scratch = memory.take<float>(kWarp, "reduction");
  const int64_t t = blockIdx.x;
  const int label = labels[t];
  const Global<T> row = logits + t * columns;
  if (label < 0) {
    if (threadIdx.x == 0) losses[t] = 0;
    if (threadIdx.x == 0) correct[t] = 0;
    const Piece<T> zeros = from_floats<T>(Vec<float, kN>{});
    for (int j = 0; write_gradient && piece_column<T>(j) < columns; ++j) {
      store_piece<T, kWide>(row, piece_column<T>(j), columns, zeros);
    }
    return;
  }
  if (label >= columns) {
    if (threadIdx.x == 0) report(fault, op, t, label, columns);
    return;
  }

  Piece<T> kept[kPieces];
#pragma unroll
  for (int j = 0; j < kKept<kWide>; ++j) {
    kept[j] = load_piece<T, kWide>(row, piece_column<T>(j), columns, from_float<T>(-INFINITY));
  }
  const float target = to_float(row[label]);
  float my_largest = -INFINITY, before = -INFINITY, total = 0;  // before: the largest of the columns before the label
  for_my_pieces<T, kWide>(kept, row, columns, [&](const Piece<T>& piece, int column) {
    const Vec<float, kN> x = to_floats(piece);
    float larger = x[0];
#pragma unroll
    for (int k = 1; k < kN; ++k) larger = fmaxf(larger, x[k]);
    if (column + kN <= label) {
      before = fmaxf(before, larger);
    } else if (column < label) {
#pragma unroll
      for (int k = 0; k < kN; ++k) before = column + k < label ? fmaxf(before, x[k]) : before;
    }
    larger = fmaxf(larger, my_largest);
    const float reference = larger == -INFINITY ? 0 : larger;  // −∞ − −∞ would be NaN
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kN; ++k) sum += exp2_approx((x[k] - reference) * kLog2e);
    total = fmaf(total, exp2_approx((my_largest - reference) * kLog2e), sum);
    my_largest = larger;
  });
  const float largest = block_reduce<Max>(my_largest, scratch), reference = largest == -INFINITY ? 0 : largest;
  total = block_reduce<Sum>(total * exp2_approx((my_largest - reference) * kLog2e), scratch);

  if (target == largest) before = block_reduce<Max>(before, scratch);
  if (threadIdx.x == 0) losses[t] = logf(total) + (largest - target);
  if (threadIdx.x == 0) correct[t] = target == largest && before < largest;
  if (!write_gradient) return;

  const float weight = weights[t], scale = weight / total;
  for_my_pieces<T, kWide>(kept, row, columns, [&](const Piece<T>& piece, int column) {
    Vec<float, kN> x = to_floats(piece);
#pragma unroll
    for (int k = 0; k < kN; ++k) x[k] = exp2_approx((x[k] - largest) * kLog2e) * scale;
    if (label >= column && label < column + kN) {
#pragma unroll
      for (int k = 0; k < kN; ++k) x[k] = __fsub_rn(x[k], column + k == label ? weight : 0);
    }
    store_piece<T, kWide>(row, column, columns, from_floats<T>(x));
  });
}

}  // namespace

void cross_entropy(const CrossEntropy& args, const Launcher& on) {
  const int64_t tokens = args.logits.shape[0], columns = args.logits.shape[1];
  if (tokens == 0) return;
  with_float(args.logits.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_flag(aligned(kVector<T>, columns, {args.logits}), [&](auto wide) {
      launch(on, cross_entropy_kernel<T, wide()>, dim3(tokens), row_threads<T>(columns, kPieces, kMostThreads),
             SharedMemory::round_up(kWarp * sizeof(float)), global<T>(args.logits), global<float>(args.losses),
             global<int32_t>(args.correct), global<const int32_t>(args.labels), global<const float>(args.weights),
             static_cast<int>(columns), args.write_gradient, global<Fault>(on.fault, 1), on.op_index);
    });
  });
}

}  // namespace openalpaca::cuda
