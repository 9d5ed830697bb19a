// Divides packed sequences into the tiles that attention's blocks process.
//
// The lengths are on the device, so a single-block kernel builds the list: one entry per `rows` tokens of a sequence,
// in order of decreasing work, so that the last blocks to run are short. The launch needs a number of blocks that does
// not depend on the lengths: N sequences of T tokens have at most T / rows + N tiles, and unused entries are empty. An
// invalid cu_seqlens is reported, and leaves all entries empty.
#pragma once

#include <algorithm>

#include "cuda/kernel.cuh"

namespace openalpaca::cuda {

struct AttentionTile {
  int start, length;  // of its sequence: the first token in the batch, the number of tokens
  int first;          // the tile's first token in the sequence
  __device__ bool empty() const { return length == 0; }
};

// How the causal work per tile changes along a sequence: queries attend to all earlier tokens, keys are attended to by
// later ones.
enum class Work { rises, falls };

struct TileList {
  Global<const int32_t> entries;  // four numbers each
  int count;
};

namespace {

constexpr int kCutThreads = 256;
constexpr int kLevels = kCutThreads;  // levels of work that the order distinguishes

struct Cutter {
  Global<const int32_t> cu_seqlens;
  int sequences, tokens, rows;
  Work work;

  // The first slot of sequence s; some of its slots remain without a tile.
  __device__ int first_place(int s) const { return cu_seqlens[s] / rows + s; }

  __device__ AttentionTile tile(int place) const {
    int s = 0;
    for (int end = sequences; end - s > 1;) {
      const int middle = (s + end) / 2;
      if (first_place(middle) <= place) {
        s = middle;
      } else {
        end = middle;
      }
    }
    const int start = cu_seqlens[s], length = cu_seqlens[s + 1] - start, first = (place - first_place(s)) * rows;
    return first < length ? AttentionTile{start, length, first} : AttentionTile{0, 0, 0};
  }

  __device__ int level(const AttentionTile& tile) const {
    const int tiles = work == Work::rises ? tile.first / rows : (tile.length - tile.first - 1) / rows;
    return min(tiles, kLevels - 1);
  }
};

// Writes list[0 … count) with four numbers each. A cu_seqlens without elements is reported as an element 0 with value
// 0, which no other error produces.
__global__ void __launch_bounds__(kCutThreads)
    cut_sequences_kernel(Global<int32_t> list, int count, Cutter cut, int32_t op, Global<Fault> fault) {
  const int thread = threadIdx.x, elements = cut.sequences + 1;
  SharedMemory memory;
  const auto wrong = memory.take<int32_t>(1, "wrong");            // whether any element is
  const auto tiles = memory.take<int32_t>(kLevels + 1, "tiles");  // per level; then from the level up
  const auto placed = memory.take<int32_t>(kLevels, "placed");    // how many of them have an entry
  tiles[thread] = 0;
  placed[thread] = 0;
  if (thread == 0) {
    wrong[0] = 0;
    tiles[kLevels] = 0;
  }
  __syncthreads();

  if (elements == 0 && thread == 0) {
    atomic_max(wrong, 1);
    report(fault, op, 0, 0, 0);
  }
  for (int i = thread; i < elements; i += kCutThreads) {
    const int value = cut.cu_seqlens[i];
    const bool falls = i == 0 ? value != 0 : value < cut.cu_seqlens[i - 1];
    const bool ends_wrong = i == elements - 1 && value != cut.tokens;
    if (!falls && !ends_wrong) continue;
    atomic_max(wrong, 1);
    report(fault, op, i, value, cut.tokens, falls ? 0 : 1);
  }
  __syncthreads();
  const int places = wrong[0] == 0 ? cut.tokens / cut.rows + cut.sequences : 0;
  for (int place = thread; place < places; place += kCutThreads) {
    const AttentionTile tile = cut.tile(place);
    if (!tile.empty()) atomic_add(tiles + cut.level(tile), 1);
  }
  __syncthreads();
  for (int step = 1; step < kLevels; step *= 2) {
    const int32_t above = thread + step < kLevels ? tiles[thread + step] : 0;
    __syncthreads();
    tiles[thread] += above;
    __syncthreads();
  }

  // The order within a level is nondeterministic; no result depends on it.
  for (int place = thread; place < places; place += kCutThreads) {
    const AttentionTile tile = cut.tile(place);
    if (tile.empty()) continue;
    const int level = cut.level(tile);
    const int entry = tiles[level + 1] + atomic_add(placed + level, 1);
    store<4>(list + 4 * entry, Vec<int32_t, 4>{tile.start, tile.length, tile.first, 0});
  }
  for (int entry = tiles[0] + thread; entry < count; entry += kCutThreads) {
    store<4>(list + 4 * entry, Vec<int32_t, 4>{});
  }
}

int most_tiles(int64_t tokens, const Tensor& cu_seqlens, int rows) {
  const int64_t sequences = cu_seqlens.shape[0] > 0 ? cu_seqlens.shape[0] - 1 : 0;
  return static_cast<int>(std::min(tokens, tokens / rows + sequences));  // every tile has at least one token
}

// Bytes of workspace for a list; a multiple of 16.
size_t tile_list_bytes(int count) { return static_cast<size_t>(count) * 4 * sizeof(int32_t); }

TileList cut_sequences(const Tensor& cu_seqlens, int64_t tokens, int rows, Work work, void* workspace,
                       const Launcher& on) {
  const int count = most_tiles(tokens, cu_seqlens, rows);
  const size_t numbers = static_cast<size_t>(count) * 4;
  const int shared =
      SharedMemory::round_up(4) + SharedMemory::round_up((kLevels + 1) * 4) + SharedMemory::round_up(kLevels * 4);
  const Cutter cut = {global<const int32_t>(cu_seqlens), static_cast<int>(cu_seqlens.shape[0]) - 1,
                      static_cast<int>(tokens), rows, work};
  launch(on, cut_sequences_kernel, 1, kCutThreads, shared, global<int32_t>(workspace, numbers), count, cut, on.op_index,
         global<Fault>(on.fault, 1));
  return {global<const int32_t>(workspace, numbers), count};
}

// ---- mapping blocks to tiles ----------------------------------------------------------------------------------------

// The number of heads processed at a time, longest tiles first: all tiles of a head read its keys and values, which
// should then still be in the second-level cache (8 heads of 8192 tokens at D = 100: 26 MB).
constexpr int kHeadsTogether = 8;

// Returns a number that is the same in all lanes of a warp, in a form from which the compiler can deduce that.
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(kAllLanes, x, 0); }

struct BlockWork {
  AttentionTile tile;
  int head;
};

unsigned block_count(const TileList& tiles, int heads) {
  const int together = std::min(heads, kHeadsTogether);
  return static_cast<unsigned>(ceil_div(heads, together) * together * tiles.count);
}

__device__ BlockWork block_work(const TileList& tiles, int heads) {
  const int together = min(heads, kHeadsTogether);
  const unsigned blocks = static_cast<unsigned>(together) * tiles.count, rest = blockIdx.x % blocks;
  const int head = static_cast<int>(blockIdx.x / blocks * together + rest % together);
  if (head >= heads) return {{0, 0, 0}, 0};
  const auto entry = load<4>(tiles.entries + rest / together * 4);
  return {{uniform(entry[0]), uniform(entry[1]), uniform(entry[2])}, uniform(head)};
}

}  // namespace
}  // namespace openalpaca::cuda
