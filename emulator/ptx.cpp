#include "emulator/ptx.cuh"

#include <cuda_runtime.h>

namespace openalpaca::cuda {

void mma_m16n8k16_of_warp(MmaRegisters** lanes) {
  typedef float Row __attribute__((vector_size(32)));
  float a[16][16];
  Row b[16];
  const auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
  const auto high = [](uint32_t pair) { return __uint_as_float(pair & 0xffff0000); };
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, p = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = lanes[lane]->a[i];
      a[g + 8 * (i % 2)][p + 8 * (i / 2)] = low(pair);
      a[g + 8 * (i % 2)][p + 8 * (i / 2) + 1] = high(pair);
    }
    for (int i = 0; i < 2; ++i) {
      const uint32_t pair = lanes[lane]->b[i];
      b[p + 8 * i][g] = low(pair);
      b[p + 8 * i + 1][g] = high(pair);
    }
  }
  for (int row = 0; row < 16; ++row) {
    Row sum = {};
    for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k];
    for (int column = 0; column < 8; ++column) {
      lanes[row % 8 * 4 + column / 2]->d[2 * (row / 8) + column % 2] += sum[column];
    }
  }
}

}  // namespace openalpaca::cuda
