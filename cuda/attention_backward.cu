// Attention, backward: FlashAttention-2 (Dao, arXiv:2307.08691) on mma.sync, in two kernels.
//
//   dq_kernel    a block has a tile of queries and walks over the keys they see: dQ, and delta on the way
//   dkv_kernel   a block has a tile of keys and walks over the queries that see them, of all heads of its group: dK, dV
//
// Both compute P and dS = P · (dP − delta) anew, the second one transposed, so that in both of them a warp owns whole
// rows, and P and dS go from the registers they were summed in straight into the next product. Every sum has one owner
// and one order: there are no atomics, no float32 dQ in memory, and the same operands give the same bits.
//
// The price is 7 products instead of 5 (S and dP twice); a head's sequence of L tokens takes 7·D·L² FLOP, of which
// 5·D·L² count as useful. Making all three gradients from one S and dP means adding to dQ from many blocks: with
// atomics, whose order is chance, or in turn, where blocks wait for each other and every tile of keys moves all of dQ in
// float32 to memory and back.
#include "cuda/attention.cuh"
#include "cuda/attention_tiles.cuh"

namespace openalpaca::cuda {
namespace {

// How a kernel is cut up. A block keeps two tiles of rows (Q and dO, or K and V; 16·row_tiles of them a warp) and walks
// over two tiles of kColumns rows of the others, in one buffer or, so that the next ones arrive meanwhile, in two.
struct Cut {
  int warps, row_tiles, buffers;
  constexpr int rows() const { return warps * 16 * row_tiles; }
};

template <class T>
constexpr int kColumns = std::is_same_v<T, bf16> ? 64 : 32;

template <class T, int kHead>
constexpr int shared_bytes(Cut cut) {
  using Tile = SharedTile<T, kHead>;
  const int sums = SharedMemory::round_up(cut.buffers * kColumns<T> * 4);  // lse and delta
  return 2 * Tile::bytes(cut.rows()) + 2 * Tile::bytes(cut.buffers * kColumns<T>) + 2 * sums;
}

