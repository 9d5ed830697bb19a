// Table lookup of rows by id, and accumulation of their gradients.
//
// In the backward pass, tokens with the same id add to the same row, in order. To avoid atomics and stay deterministic,
// tokens are first sorted by id; then one block per run of equal ids adds its rows sequentially in float32, and writes
// the sum once. The sort counts, for each token, the tokens that precede it: T² cheap comparisons, spread over the
// whole chip, take a few microseconds for the 8192 tokens of a chunk, whereas a multi-step sort would wait at every
// step. Longer batches are processed in chunks.
#include "cuda/pieces.cuh"

namespace openalpaca::cuda {
namespace {

constexpr int kSortThreads = 256;
constexpr int kTokensPerWarp = 4;  // comparisons per id that is read
constexpr int kChunk = 8192;       // a multiple of kTokensPerWarp
constexpr int kInFlight = 8;       // rows of a run that are read before the first is added

// Reads and writes each row: 4 bytes per element in bfloat16. E is any type of the element's size.
template <class E, int N>
__global__ void gather(Global<E> out, Global<const int32_t> ids, Global<const E> w, int columns, int vocabulary,
                       Global<Fault> fault, int op) {
  const int64_t t = blockIdx.x;
  const int column = my_column<N>(), id = ids[t];
  if (id < 0 || id >= vocabulary) {
    if (column == 0) report(fault, op, t, id, vocabulary);
    return;
  }
  if (column < columns) store<N>(out + (t * columns + column), load<N>(w + (int64_t{id} * columns + column)));
}

// For each chunk of tokens: order[place] is the place-th token by (id, token), and sorted_ids[place] its id. Reports
// ids outside the vocabulary. A warp finds the places of a few tokens; each lane compares with a 32nd of the chunk.
__global__ void __launch_bounds__(kSortThreads)
    sort_by_id(Global<int32_t> order, Global<int32_t> sorted_ids, Global<const int32_t> ids, int64_t tokens,
               int vocabulary, Global<Fault> fault, int op) {
  const int lane = threadIdx.x % kWarp;
  const int64_t warp = int64_t{blockIdx.x} * (kSortThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t first = warp * kTokensPerWarp, chunk = first / kChunk * kChunk;
  const int size = static_cast<int>(min(int64_t{kChunk}, tokens - chunk)), mine = static_cast<int>(first - chunk);
  int id[kTokensPerWarp];
  float place[kTokensPerWarp] = {};  // integers below 2^24 are exact
#pragma unroll
  for (int j = 0; j < kTokensPerWarp; ++j) id[j] = mine + j < size ? ids[first + j] : 0;
#pragma unroll 4
  for (int other = lane; other < size; other += kWarp) {
    const int other_id = ids[chunk + other];
#pragma unroll
    for (int j = 0; j < kTokensPerWarp; ++j) {
      if (other_id < id[j] || (other_id == id[j] && other < mine + j)) place[j] += 1;
    }
  }
#pragma unroll
  for (int j = 0; j < kTokensPerWarp; ++j) {
    const int64_t at = chunk + static_cast<int>(warp_reduce<Sum>(place[j]));
    if (lane != 0 || mine + j >= size) continue;
    order[at] = static_cast<int32_t>(first + j);
    sorted_ids[at] = id[j];
    if (id[j] < 0 || id[j] >= vocabulary) report(fault, op, first + j, id[j], vocabulary);
  }
}

// For a chunk of sorted tokens: reads dout, and reads and writes the rows of dw that occur: 2 bytes per element of dout
// in bfloat16, and 8 per element of such a row in float32. Adds nothing if an id was reported.
template <class G, class A, int N>
__global__ void add_runs(Global<G> dw, Global<const A> dout, Global<const int32_t> order,
                         Global<const int32_t> sorted_ids, int size, int columns, Global<const Fault> fault) {
  const int run = static_cast<int>(blockIdx.x), id = sorted_ids[run], column = my_column<N>();
  if (run > 0 && sorted_ids[run - 1] == id) return;  // the run starts earlier
  if (fault[0].op != 0 || column >= columns) return;
  const Global<G> to = dw + (int64_t{id} * columns + column);
  Vec<float, N> sum = to_floats(load<N>(to));
  for (int i = run; i < size && sorted_ids[i] == id; i += kInFlight) {
    Vec<A, N> rows[kInFlight];
    bool in_run[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      in_run[j] = i + j < size && sorted_ids[i + j] == id;
      if (in_run[j]) rows[j] = load<N>(dout + (int64_t{order[i + j]} * columns + column));
    }
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      if (!in_run[j]) break;
      const Vec<float, N> row = to_floats(rows[j]);
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += row[k];
    }
  }
  store<N>(to, from_floats<G>(sum));
}

template <class E>
void gather_rows(const EmbeddingForward& args, const Launcher& on) {
  const int64_t tokens = args.out.shape[0], columns = args.out.shape[1];
  with_width<kVector<E>>(aligned(kVector<E>, columns, {args.out, args.w}), [&](auto width) {
    const auto [grid, block] = row_grid(tokens, columns, width());
    launch(on, gather<E, width()>, grid, block, 0, global<E>(args.out), global<const int32_t>(args.ids),
           global<const E>(args.w), static_cast<int>(columns), static_cast<int>(args.w.shape[0]),
           global<Fault>(on.fault, 1), on.op_index);
  });
}

}  // namespace

void embedding_forward(const EmbeddingForward& args, const Launcher& on) {
  if (args.out.numel() == 0) return;
  if (size_of(args.w.dtype) == 2) {
    gather_rows<uint16_t>(args, on);
  } else {
    gather_rows<uint32_t>(args, on);
  }
}

void embedding_backward(const EmbeddingBackward& args, const Launcher& on) {
  const int64_t tokens = args.dout.shape[0], columns = args.dout.shape[1];
  if (args.dout.numel() == 0) return;
  int32_t* const order = static_cast<int32_t*>(on.workspace(2 * tokens * sizeof(int32_t)));
  int32_t* const sorted_ids = order + tokens;
  launch(on, sort_by_id, dim3(ceil_div(tokens, kSortThreads / kWarp * kTokensPerWarp)), kSortThreads, 0,
         global<int32_t>(order, tokens), global<int32_t>(sorted_ids, tokens), global<const int32_t>(args.ids), tokens,
         static_cast<int>(args.dw.shape[0]), global<Fault>(on.fault, 1), on.op_index);
  with_float(args.dw.dtype, [&](auto g) {
    with_float(args.dout.dtype, [&](auto a) {
      using G = decltype(g);
      using A = decltype(a);
      constexpr int kN = kTogether<G, A>;
      with_width<kN>(aligned(kN, columns, {args.dw, args.dout}), [&](auto width) {
        for (int64_t chunk = 0; chunk < tokens; chunk += kChunk) {
          const int64_t size = std::min<int64_t>(kChunk, tokens - chunk);
          const auto [grid, block] = row_grid(size, columns, width());
          launch(on, add_runs<G, A, width()>, grid, block, 0, global<G>(args.dw), global<const A>(args.dout),
                 global<const int32_t>(order + chunk, size), global<const int32_t>(sorted_ids + chunk, size),
                 static_cast<int>(size), static_cast<int>(columns), global<const Fault>(on.fault, 1));
        }
      });
    });
  });
}

}  // namespace openalpaca::cuda
