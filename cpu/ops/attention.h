// How attention is tiled, forward and backward.
//
// Sequences are divided into blocks of kBlock tokens; a query block and a key block form a tile. A tile on the diagonal
// is divided again, into bands of kBand keys: only the queries from the band's first key on attend to any of it. The
// products then run over rectangles, and only the square at the beginning of each band needs a mask.
#pragma once

#include "cpu/ops/tile.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

constexpr int kBlock = 64;
constexpr int kBand = 16;
static_assert(kBlock % kBand == 0 && kBand % kLanes == 0 && kBand % kRows == 0);

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct Block;

struct Sequence {
  int64_t start;  // its first token, in the batch
  int length;
  int blocks() const { return (length + kBlock - 1) / kBlock; }
  inline Block block(int i) const;
};

struct Block {
  Sequence sequence;
  int index;
  int first() const { return index * kBlock; }  // its first token, in the sequence
  int64_t token() const { return sequence.start + first(); }
  int count() const { return sequence.length - first() < kBlock ? sequence.length - first() : kBlock; }
};

inline Block Sequence::block(int i) const { return {*this, i}; }

// Writes the blocks of all sequences in order and returns their number; with null, only counts.
inline int64_t cut_sequences(Block* blocks, const int32_t* cu_seqlens, int64_t count) {
  int64_t n = 0;
  for (int64_t s = 0; s + 1 < count; ++s) {
    const Sequence sequence = {cu_seqlens[s], cu_seqlens[s + 1] - cu_seqlens[s]};
    for (int i = 0; i < sequence.blocks(); ++i, ++n) {
      if (blocks) blocks[n] = sequence.block(i);
    }
  }
  return n;
}

// A block and a head. All heads of a sequence come before the next sequence, since rows of different heads are adjacent
// in memory.
struct Task {
  Block block;
  int64_t head;
};
inline Task task_at(const Block* blocks, int64_t heads, int64_t index) {
  const Block& same_sequence = blocks[index / heads];
  const int64_t count = same_sequence.sequence.blocks(), first = index / heads - same_sequence.index;
  const int64_t within = index - heads * first;
  return {same_sequence.sequence.block(static_cast<int>(within % count)), within / count};
}

// A part of a tile. Its first key and query are relative to the tile's.
struct Rectangle {
  int key, keys, query, queries;
};

// Calls f(rectangle) for the parts of a tile with `queries` queries, a multiple of kBand.
template <class F>
inline void for_each_rectangle(bool diagonal, int queries, F&& f) {
  if (!diagonal) return f(Rectangle{0, kBlock, 0, queries});
  for (int i = 0; i < queries; i += kBand) f(Rectangle{i, kBand, i, queries - i});
}

// x where a lane's query is at or after the key's token, otherwise `masked`. Lane 0 holds the given query.
inline Vec causal(Vec x, int key, int query, float masked) { return lane_index() >= key - query ? x : splat(masked); }

// Allocates a thread's buffers from one block, each aligned to 64 bytes. With null it only counts the bytes.
class Carver {
 public:
  explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}
  float* take(int64_t words) {
    float* piece = memory_ ? reinterpret_cast<float*>(memory_ + used_) : nullptr;
    used_ += (words * sizeof(float) + 63) / 64 * 64;
    return piece;
  }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

}  // namespace openalpaca::cpu::OPENALPACA_ISA
