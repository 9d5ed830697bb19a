// Root-mean-square normalization. A block processes a row and keeps it in registers, so that memory is read once:
// thread i has the 16-byte pieces i, i + blockDim, … The part of a very wide row that does not fit is read again.
//
// The gradient of w is a sum over all tokens. In the backward pass a block iterates over a strip of rows and keeps its
// column sums in registers, too; a second kernel adds the strips' sums in order. So no atomics are needed, and the bits
// are the same on every run and every chip: the strips depend only on the number of rows.
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kForwardPieces = 2;   // of a row, per thread: 16384 columns of bfloat16 fit in a block's registers
constexpr int kBackwardPieces = 1;  // a thread also keeps the next row's pieces and its column sums
constexpr int kStrips = 256;        // at most: about two per multiprocessor; their sums are 3 % of 8192 bfloat16 rows
constexpr int kAddColumns = 32, kAddGroups = 16;

// Reads x (and delta), writes (sum and) y: 4 bytes per element in bfloat16, 8 with the addition. w comes from the
// cache.
template <class T, bool kWhole, bool kAdd>
__global__ void __launch_bounds__(kMostThreads)
    normalise(Global<T> y, Global<float> rstd, Global<T> sum, Global<const T> x, Global<const T> delta,
              Global<const T> w, int columns, float eps) {
  constexpr int kN = kVector<T>, kRoom = kForwardPieces, kKept = kWhole ? kRoom : 0;  // pieces of the row
  SharedMemory memory;
  const Shared<float> scratch = memory.take<float>(kWarp, "reduction");
  const int64_t row = blockIdx.x, start = row * columns;
  const int first_unkept = piece_column<T>(kKept), step = static_cast<int>(blockDim.x) * kN;

  float squares = 0;
  const auto add_squares = [&](const Piece<T>& piece) {
    const Vec<float, kN> values = to_floats(piece);
#pragma unroll
    for (int k = 0; k < kN; ++k) squares = fmaf(values[k], values[k], squares);
  };
  const auto add = [&](Piece<T>& piece, const Piece<T>& change, int column) {
    Vec<float, kN> values = to_floats(piece);
    const Vec<float, kN> changes = to_floats(change);
#pragma unroll
    for (int k = 0; k < kN; ++k) values[k] += changes[k];
    piece = from_floats<T>(values);  // normalizes the rounded sum
    store_piece<T, kWhole>(sum + start, column, columns, piece);
  };
  Piece<T> pieces[kRoom], changes[kRoom], weights[kRoom];
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    pieces[j] = load_piece<T, kWhole>(x + start, piece_column<T>(j), columns);
    if constexpr (kAdd) changes[j] = load_piece<T, kWhole>(delta + start, piece_column<T>(j), columns);
  }
#pragma unroll
  for (int j = 0; j < kKept; ++j) weights[j] = load_piece<T, kWhole>(w, piece_column<T>(j), columns);
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
    if constexpr (kAdd) add(pieces[j], changes[j], piece_column<T>(j));
    add_squares(pieces[j]);
  }
  for (int column = first_unkept; !kWhole && column < columns; column += step) {
    Piece<T> piece = load_piece<T, kWhole>(x + start, column, columns);
    if constexpr (kAdd) add(piece, load_piece<T, kWhole>(delta + start, column, columns), column);
    add_squares(piece);
  }

  const float mean = block_reduce<Sum>(squares, scratch) / static_cast<float>(columns);
  const float scale = 1.0f / sqrtf(mean + eps);
  if (threadIdx.x == 0) rstd[row] = scale;
  const auto write = [&](const Piece<T>& piece, const Piece<T>& weight, int column) {
    Vec<float, kN> values = to_floats(piece);
    const Vec<float, kN> weights = to_floats(weight);
#pragma unroll
    for (int k = 0; k < kN; ++k) values[k] = values[k] * scale * weights[k];
    store_piece<T, kWhole>(y + start, column, columns, from_floats<T>(values));
  };
#pragma unroll
  for (int j = 0; j < kKept; ++j) write(fresh(pieces[j]), weights[j], piece_column<T>(j));
  for (int column = first_unkept; !kWhole && column < columns; column += step) {
    const Piece<T> piece =
        kAdd ? load_piece<T, kWhole>(sum + start, column, columns) : load_piece<T, kWhole>(x + start, column, columns);
    write(piece, load_piece<T, kWhole>(w, column, columns), column);
  }
}

// Reads dy, x, and dx, writes dx: 8 bytes per element in bfloat16. partial_dw[strip] is the strip's contribution to dw.
// The next row's dy and x are fetched before the threads wait for each other's part of this row's sum.
template <class T, bool kWhole>
__global__ void __launch_bounds__(kMostThreads)
    normalise_backward(Global<T> dx, Global<float> partial_dw, Global<const T> dy, Global<const T> x, Global<const T> w,
                       Global<const float> rstd, int64_t rows, int64_t rows_per_strip, int columns) {
  constexpr int kN = kVector<T>, kRoom = kBackwardPieces, kKept = kWhole ? kRoom : 0;
  SharedMemory memory;
  const Shared<float> scratch = memory.take<float>(kWarp, "reduction");
  const int64_t first = blockIdx.x * rows_per_strip, end = min(first + rows_per_strip, rows);
  const Global<float> strip_dw = partial_dw + int64_t{blockIdx.x} * columns;
  const int first_unkept = piece_column<T>(kKept), step = static_cast<int>(blockDim.x) * kN;

  Piece<T> weights[kRoom], gradients[kRoom], inputs[kRoom];
  float dw[kRoom][kN] = {};
  const auto fetch = [&](int64_t row) {
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      gradients[j] = load_piece<T, kWhole>(dy + row * columns, piece_column<T>(j), columns);
      inputs[j] = load_piece<T, kWhole>(x + row * columns, piece_column<T>(j), columns);
    }
  };
  fetch(first);
#pragma unroll
  for (int j = 0; j < kKept; ++j) weights[j] = load_piece<T, kWhole>(w, piece_column<T>(j), columns);

  for (int64_t row = first; row < end; ++row) {
    const int64_t start = row * columns;
    const float scale = rstd[row];
    float dot = 0;
    const auto add_products = [&](const Piece<T>& gradient, const Piece<T>& weight, const Piece<T>& input) {
      const Vec<float, kN> g = to_floats(gradient), w = to_floats(weight), x = to_floats(input);
#pragma unroll
      for (int k = 0; k < kN; ++k) dot = fmaf(g[k] * w[k], x[k], dot);
    };
    Piece<T> residuals[kRoom], gradient[kRoom], input[kRoom];
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      residuals[j] = load_piece<T, kWhole>(dx + start, piece_column<T>(j), columns);
      gradient[j] = gradients[j];
      input[j] = inputs[j];
      add_products(gradient[j], weights[j], input[j]);
    }
    if (row + 1 < end) fetch(row + 1);
    for (int column = first_unkept; !kWhole && column < columns; column += step) {
      add_products(load_piece<T, kWhole>(dy + start, column, columns), load_piece<T, kWhole>(w, column, columns),
                   load_piece<T, kWhole>(x + start, column, columns));
    }
    const float mean = block_reduce<Sum>(dot, scratch) * scale / static_cast<float>(columns);

    // Adds to dx, and calls add_dw(k, a, b) for each column of the piece, whose contribution to dw is a · b.
    const auto write = [&](const Piece<T>& gradient, const Piece<T>& weight, const Piece<T>& input,
                           const Piece<T>& residual, int column, auto&& add_dw) {
      const Vec<float, kN> g = to_floats(gradient), w = to_floats(weight), x = to_floats(input);
      Vec<float, kN> sum = to_floats(residual);
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        const float normalised = x[k] * scale;
        add_dw(k, g[k], normalised);
        sum[k] = fmaf(fmaf(g[k], w[k], -normalised * mean), scale, sum[k]);
      }
      store_piece<T, kWhole>(dx + start, column, columns, from_floats<T>(sum));
    };
#pragma unroll
    for (int j = 0; j < kKept; ++j) {
      write(fresh(gradient[j]), fresh(weights[j]), fresh(input[j]), residuals[j], piece_column<T>(j),
            [&](int k, float a, float b) { dw[j][k] = fmaf(a, b, dw[j][k]); });
    }
    for (int column = first_unkept; !kWhole && column < columns; column += step) {
      write(load_piece<T, kWhole>(dy + start, column, columns), load_piece<T, kWhole>(w, column, columns),
            load_piece<T, kWhole>(x + start, column, columns), load_piece<T, kWhole>(dx + start, column, columns),
            column, [&](int k, float a, float b) {
              if (column + k >= columns) return;
              strip_dw[column + k] = fmaf(a, b, row == first ? 0 : strip_dw[column + k]);
            });
    }
  }
#pragma unroll
  for (int j = 0; j < kKept; ++j) {
#pragma unroll
    for (int k = 0; k < kN; ++k) {
      if (piece_column<T>(j) + k < columns) strip_dw[piece_column<T>(j) + k] = dw[j][k];
    }
  }
}

// dw += the strips' sums, in order. A warp processes 32 columns of some of the strips, so that their reads are in
// flight together; the first warp adds the warps' sums.
template <class G>
__global__ void __launch_bounds__(kAddColumns* kAddGroups)
    add_strips(Global<G> dw, Global<const float> partial_dw, int strips, int columns) {
  SharedMemory memory;
  const Shared<float> sums = memory.take<float>(kAddColumns * kAddGroups, "sums of strips");
  const int column = static_cast<int>(blockIdx.x) * kAddColumns + threadIdx.x, group = threadIdx.y;
  const int strips_per_group = (strips + kAddGroups - 1) / kAddGroups;
  const int first = group * strips_per_group, end = min(first + strips_per_group, strips);
  float sum = 0;
  if (column < columns) {
#pragma unroll 16
    for (int strip = first; strip < end; ++strip) sum += partial_dw[int64_t{strip} * columns + column];
  }
  sums[group * kAddColumns + threadIdx.x] = sum;
  __syncthreads();
  if (group == 0 && column < columns) {
    float total = sums[threadIdx.x];
    for (int i = 1; i < kAddGroups; ++i) total += sums[i * kAddColumns + threadIdx.x];
    dw[column] = from_float<G>(to_float(dw[column]) + total);
  }
}

// Whether rows can be kept, in pieces that are each accessed at once.
template <class T>
bool whole(int64_t columns, int pieces, std::initializer_list<Tensor> tensors) {
  return columns <= int64_t{kMostThreads} * pieces * kVector<T> && aligned(kVector<T>, columns, tensors);
}

constexpr int kScratch = SharedMemory::round_up(kWarp * sizeof(float));

}  // namespace

void rmsnorm_forward(const RmsNormForward& args, const Launcher& on) {
  const int64_t tokens = args.x.shape[0], columns = args.x.shape[1];
  if (tokens == 0) return;
  with_float(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_flag(whole<T>(columns, kForwardPieces, {args.y, args.x, args.w}), [&](auto whole) {
      launch(on, normalise<T, whole(), false>, dim3(tokens), row_threads<T>(columns, kForwardPieces, kMostThreads),
             kScratch, global<T>(args.y), global<float>(args.rstd), global<T>(args.y), global<const T>(args.x),
             global<const T>(args.x), global<const T>(args.w), static_cast<int>(columns), static_cast<float>(args.eps));
    });
  });
}

void add_rmsnorm_forward(const AddRmsNormForward& args, const Launcher& on) {
  const int64_t tokens = args.x.shape[0], columns = args.x.shape[1];
  if (tokens == 0) return;
  with_float(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_flag(whole<T>(columns, kForwardPieces, {args.y, args.sum, args.x, args.delta, args.w}), [&](auto whole) {
      launch(on, normalise<T, whole(), true>, dim3(tokens), row_threads<T>(columns, kForwardPieces, kMostThreads),
             kScratch, global<T>(args.y), global<float>(args.rstd), global<T>(args.sum), global<const T>(args.x),
             global<const T>(args.delta), global<const T>(args.w), static_cast<int>(columns),
             static_cast<float>(args.eps));
    });
  });
}

void rmsnorm_backward(const RmsNormBackward& args, const Launcher& on) {
  const int64_t tokens = args.x.shape[0], columns = args.x.shape[1];
  if (args.x.numel() == 0) return;
  const int64_t rows_per_strip = ceil_div(tokens, kStrips), strips = ceil_div(tokens, rows_per_strip);
  void* partial_dw = on.workspace(strips * columns * sizeof(float));
  with_float(args.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    with_flag(whole<T>(columns, kBackwardPieces, {args.dx, args.dy, args.x, args.w}), [&](auto whole) {
      launch(on, normalise_backward<T, whole()>, dim3(strips), row_threads<T>(columns, kBackwardPieces, kMostThreads),
             kScratch, global<T>(args.dx), global<float>(partial_dw, strips * columns), global<const T>(args.dy),
             global<const T>(args.x), global<const T>(args.w), global<const float>(args.rstd), tokens, rows_per_strip,
             static_cast<int>(columns));
    });
  });
  with_float(args.dw.dtype, [&](auto zero) {
    using G = decltype(zero);
    launch(on, add_strips<G>, dim3(ceil_div(columns, kAddColumns)), dim3(kAddColumns, kAddGroups),
           SharedMemory::round_up(kAddColumns * kAddGroups * sizeof(float)), global<G>(args.dw),
           global<const float>(partial_dw, strips * columns), static_cast<int>(strips), static_cast<int>(columns));
  });
}

}  // namespace openalpaca::cuda
