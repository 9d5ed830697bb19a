// Emulator counterpart of cuda/ptx.cuh: the effect of each instruction, with the PTX manual's fragment layouts.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <cstring>

#include "emulator/memory.cuh"

namespace openalpaca::cuda {

// ---- tensor cores ---------------------------------------------------------------------------------------------------

struct MatrixRow {
  const uint16_t* row;  // 8 elements, or nullptr in a lane that supplies none
  uint32_t* registers;
};

// Lanes 8·i to 8·i + 7 supply the rows of matrix i.
template <int Matrices, bool Transposed>
inline void load_matrices(const char* what, uint32_t* registers, const uint16_t* row, emulator::Place place) {
  MatrixRow mine{row, registers};
  emulator::collective(what, mine, place, [](MatrixRow** lanes) {
    for (int i = 0; i < Matrices; ++i) {
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, p = 2 * (lane % 4);
        const auto element = [&](int r, int c) -> uint32_t {
          return Transposed ? lanes[8 * i + c]->row[r] : lanes[8 * i + r]->row[c];
        };
        lanes[lane]->registers[i] = element(g, p) | element(g, p + 1) << 16;
      }
    }
  });
}

// This lane's row, checked as the eight elements that the warp will read.
template <class T>
inline const uint16_t* matrix_row(Shared<T> row, bool named) {
  static_assert(sizeof(T) == 2, "the matrices of ldmatrix have elements of 16 bits");
  if (!named) return nullptr;
  const T* at = row.aligned(8);
  emulator::check_read(at, 16);
  return reinterpret_cast<const uint16_t*>(at);
}

template <class T>
inline void ldmatrix_x4(uint32_t (&r)[4], Shared<T> row, emulator::Place place = emulator::Place::current()) {
  load_matrices<4, false>("ldmatrix_x4", r, matrix_row(row, true), place);
}
template <class T>
inline void ldmatrix_x4_trans(uint32_t (&r)[4], Shared<T> row, emulator::Place place = emulator::Place::current()) {
  load_matrices<4, true>("ldmatrix_x4_trans", r, matrix_row(row, true), place);
}
template <class T>
inline void ldmatrix_x2(uint32_t (&r)[2], Shared<T> row, emulator::Place place = emulator::Place::current()) {
  load_matrices<2, false>("ldmatrix_x2", r, matrix_row(row, emulator::current->lane < 16), place);
}
template <class T>
inline void ldmatrix_x2_trans(uint32_t (&r)[2], Shared<T> row, emulator::Place place = emulator::Place::current()) {
  load_matrices<2, true>("ldmatrix_x2_trans", r, matrix_row(row, emulator::current->lane < 16), place);
}

struct MmaRegisters {
  float* d;
  const uint32_t *a, *b;
};
// Runs in the last lane, for the whole warp.
void mma_m16n8k16_of_warp(MmaRegisters** lanes);

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         emulator::Place place = emulator::Place::current()) {
  MmaRegisters mine{d, a, b};
  emulator::collective("mma_m16n8k16", mine, place, mma_m16n8k16_of_warp);
}

// ---- asynchronous copies from device to shared memory: the bytes arrive at the wait ---------------------------------

template <int Bytes, class T>
inline void cp_async(Shared<T> to, Global<const std::type_identity_t<T>> from, bool valid = true) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  static_assert(Bytes % sizeof(T) == 0);
  constexpr int kElements = Bytes / sizeof(T);
  emulator::async_copy(to.aligned(kElements), valid ? from.aligned(kElements) : nullptr, Bytes);
}
inline void cp_async_commit() { emulator::async_commit(); }
template <int Pending>
inline void cp_async_wait() {
  emulator::async_wait(Pending);
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

inline float exp2_approx(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0 : y;
}

// ---- registers ------------------------------------------------------------------------------------------------------

template <class T>
inline T fresh(T value) {
  return value;
}

// ---- caches ---------------------------------------------------------------------------------------------------------

template <int N, class T>
inline Vec<std::remove_const_t<T>, N> load_once(Global<T> p) {
  return load<N>(p);
}

}  // namespace openalpaca::cuda
