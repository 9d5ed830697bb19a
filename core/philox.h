// Philox 4x32-10, a counter-based random number generator: maps a key and a counter to four random words, with no state
// (Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Every device computes the same
// words: the functions are constexpr, so nvcc compiles them for the GPU too, and static, so the linker cannot merge
// copies compiled for different instruction sets.
#pragma once

#include <cstdint>

namespace openalpaca {

struct PhiloxWords {
  uint32_t word[4];
};

static constexpr PhiloxWords philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0, p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// Known-answer test from the authors' Random123 library.
static_assert(philox(0, 0, 0).word[0] == 0x6627e8d5 && philox(0, 0, 0).word[3] == 0x9b00dbd8);

// Maps a word to (0, 1]: never 0, so that its logarithm exists.
static constexpr float unit_open(uint32_t word) { return (static_cast<float>(word >> 8) + 0.5f) * 0x1p-24f; }

}  // namespace openalpaca
