// Kernels with one bug each, for the emulator to find, and some without: emulator-selftest NAME prints the error that
// it reports for a kernel, or "no error". Run by emulator.test.ts.
#include <cstdio>
#include <cstring>

#include "cuda/kernel.cuh"
#include "emulator/emulator.h"

namespace openalpaca::cuda {
namespace {

constexpr int kThreads = 64;

// ---- without a bug --------------------------------------------------------------------------------------------------

__global__ void sums_a_block(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto scratch = memory.take<float>(kThreads / kWarp, "scratch");
  const float sum = block_reduce<Sum>(x[threadIdx.x], scratch);
  out[threadIdx.x] = sum;
}

__global__ void reverses_through_shared_memory(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

__global__ void passes_on_within_a_warp(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  for (int round = 0; round < 3; ++round) {
    tile[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    const float other = tile[threadIdx.x ^ 1];
    __syncwarp();
    out[threadIdx.x] = other;
  }
}

__global__ void copies_with_cp_async(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  if (threadIdx.x < kThreads / 4) cp_async<16>(tile + threadIdx.x * 4, x + threadIdx.x * 4, threadIdx.x != 3);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

__global__ void counts_with_atomics(Global<float> out, Global<const float>) {
  SharedMemory memory;
  auto counter = memory.take<int>(1, "counter");
  if (threadIdx.x == 0) counter[0] = 0;
  __syncthreads();
  atomic_add(counter, 2);
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(counter[0]);
}

// A 16×16 matrix times a 16×8 one whose fragments are loaded from shared memory in all three ways, compared with a
// direct computation. Every lane writes its number of differing results, so all are 0.
__global__ void multiplies_in_tensor_cores(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto a = memory.take<bf16>(16 * 16, "a");
  auto b = memory.take<bf16>(16 * 8, "b");                  // row-major: rows are k
  auto b_columns = memory.take<bf16>(8 * 16, "b_columns");  // and transposed
  const auto element = [&](int i) { return from_float<bf16>(static_cast<float>(i * 37 % 23 - 11) * x[i % kThreads]); };
  for (int i = threadIdx.x; i < 256; i += kThreads) a[i] = element(i);
  for (int i = threadIdx.x; i < 128; i += kThreads) {
    b[i] = element(i + 5);
    b_columns[i % 8 * 16 + i / 8] = element(i + 5);
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp, g = lane / 4, p = lane % 4 * 2;
  uint32_t fa[4], fb[2], fb_columns[2];
  ldmatrix_x4(fa, a + lane % 16 * 16 + lane / 16 * 8);
  ldmatrix_x2_trans(fb, b + lane % 16 * 8);
  ldmatrix_x2(fb_columns, b_columns + lane % 8 * 16 + lane / 8 % 2 * 8);
  float d[4] = {1, 2, 3, 4};
  mma_m16n8k16(d, fa, fb);
  int wrong = (fb[0] != fb_columns[0]) + (fb[1] != fb_columns[1]);
  for (int i = 0; i < 4; ++i) {
    float sum = static_cast<float>(i + 1);
    for (int k = 0; k < 16; ++k) sum += to_float(a[(g + i / 2 * 8) * 16 + k]) * to_float(b[k * 8 + p + i % 2]);
    wrong += fabsf(sum - d[i]) > 1e-3f * fabsf(sum);
  }
  out[threadIdx.x] = static_cast<float>(wrong);
}

// ---- memory ---------------------------------------------------------------------------------------------------------

__global__ void writes_past_the_end(Global<float> out, Global<const float> x) {
  out[threadIdx.x + (threadIdx.x == 5 ? kThreads : 0)] = x[threadIdx.x];
}

__global__ void reads_before_the_start(Global<float> out, Global<const float> x) {
  out[threadIdx.x] = x[static_cast<int>(threadIdx.x) - 1];
}

__global__ void loads_past_the_end(Global<float> out, Global<const float> x) {
  out[threadIdx.x] = load<4>(x + (kThreads - 4 + (threadIdx.x == 9 ? 4 : 0)))[0];
}

__global__ void loads_misaligned(Global<float> out, Global<const float> x) { out[threadIdx.x] = load<4>(x + 1)[0]; }

__global__ void writes_past_shared_memory(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads / 2, "tile");
  auto other = memory.take<float>(kThreads / 2, "other");
  if (threadIdx.x < kThreads / 2) other[threadIdx.x] = 0.0f;
  tile[threadIdx.x] = x[threadIdx.x];  // overlaps the other piece
  out[threadIdx.x] = 0.0f;
}

__global__ void reads_what_nobody_wrote(Global<float> out, Global<const float>) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  if (threadIdx.x != 7) tile[threadIdx.x] = 1.0f;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void takes_too_much(Global<float> out, Global<const float>) {
  SharedMemory memory;
  auto tile = memory.take<float>(100 * kThreads, "tile");
  tile[threadIdx.x] = 0.0f;
  out[threadIdx.x] = 0.0f;
}

// ---- order ----------------------------------------------------------------------------------------------------------

__global__ void forgets_a_barrier(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  tile[threadIdx.x] = x[threadIdx.x];
  out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
}

// The read before the barrier is ordered; the write after it is not ordered with the other warp's read.
__global__ void forgets_the_second_barrier(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[kThreads - 1 - threadIdx.x];
  }
}

__global__ void forgets_a_barrier_before_writing(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(1, "tile");
  if (threadIdx.x == 0) tile[0] = x[0];
  __syncthreads();
  const float first = tile[0];
  if (threadIdx.x == 0) tile[0] = 2 * first;
  out[threadIdx.x] = first;
}

__global__ void trusts_a_shuffle(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  tile[threadIdx.x] = x[threadIdx.x];
  const float sum = warp_reduce<Sum>(1.0f);
  out[threadIdx.x] = sum + tile[threadIdx.x ^ 1];
}

__global__ void reads_before_the_wait(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  cp_async<4>(tile + threadIdx.x, x + threadIdx.x);
  cp_async_commit();
  out[threadIdx.x] = tile[threadIdx.x];
  cp_async_wait<0>();
}

__global__ void waits_for_too_few(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(2 * kThreads, "tile");
  for (int i = 0; i < 2; ++i) {
    cp_async<4>(tile + i * kThreads + threadIdx.x, x + threadIdx.x);
    cp_async_commit();
  }
  cp_async_wait<1>();
  out[threadIdx.x] = tile[threadIdx.x];
  out[threadIdx.x] = tile[kThreads + threadIdx.x];
}

__global__ void forgets_the_barrier_after_a_copy(Global<float> out, Global<const float> x) {
  SharedMemory memory;
  auto tile = memory.take<float>(kThreads, "tile");
  cp_async<4>(tile + threadIdx.x, x + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// ---- waiting --------------------------------------------------------------------------------------------------------

__global__ void diverges_at_a_barrier(Global<float> out, Global<const float>) {
  if (threadIdx.x < kWarp) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 0.0f;
}

__global__ void ends_before_a_barrier(Global<float> out, Global<const float>) {
  if (threadIdx.x >= 60) return;
  __syncthreads();
  out[threadIdx.x] = 0.0f;
}

__global__ void diverges_within_a_warp(Global<float> out, Global<const float> x) {
  float sum = x[threadIdx.x];
  if (threadIdx.x % 2 == 0)
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
  else
    sum += __shfl_xor_sync(kAllLanes, sum, 4);
  out[threadIdx.x] = sum;
}

__global__ void leaves_lanes_out(Global<float> out, Global<const float> x) {
  float sum = x[threadIdx.x];
  if (threadIdx.x % kWarp < 16) sum = warp_reduce<Sum>(sum);
  out[threadIdx.x] = sum;
}

// A lane waits for the block, while the other lanes of its warp wait for that lane.
__global__ void waits_in_a_circle(Global<float> out, Global<const float>) {
  if (threadIdx.x >= kWarp && threadIdx.x < kThreads - 1) __syncwarp();
  __syncthreads();
  out[threadIdx.x] = 0.0f;
}

using Kernel = void (*)(Global<float>, Global<const float>);
#define OPENALPACA_KERNELS(X)         \
  X(sums_a_block)                     \
  X(reverses_through_shared_memory)   \
  X(passes_on_within_a_warp)          \
  X(copies_with_cp_async)             \
  X(counts_with_atomics)              \
  X(multiplies_in_tensor_cores)       \
  X(writes_past_the_end)              \
  X(reads_before_the_start)           \
  X(loads_past_the_end)               \
  X(loads_misaligned)                 \
  X(writes_past_shared_memory)        \
  X(reads_what_nobody_wrote)          \
  X(takes_too_much)                   \
  X(forgets_a_barrier)                \
  X(forgets_the_second_barrier)       \
  X(forgets_a_barrier_before_writing) \
  X(trusts_a_shuffle)                 \
  X(reads_before_the_wait)            \
  X(waits_for_too_few)                \
  X(forgets_the_barrier_after_a_copy) \
  X(diverges_at_a_barrier)            \
  X(ends_before_a_barrier)            \
  X(diverges_within_a_warp)           \
  X(leaves_lanes_out)                 \
  X(waits_in_a_circle)

// Runs a kernel in three blocks of 64 threads on 1, 2, …, 64 and returns the outcome.
std::string outcome(Kernel kernel) {
  alignas(16) float x[kThreads], out[kThreads];
  for (int i = 0; i < kThreads; ++i) x[i] = static_cast<float>(i + 1);
  const emulator::Launch launch{reinterpret_cast<const void*>(kernel), dim3(3), dim3(kThreads), 2048};
  Global<float> to(out, kThreads);
  Global<const float> from(x, kThreads);
  to.set_argument(1);
  from.set_argument(2);
  try {
    emulator::run(launch, [&] { kernel(to, from); });
  } catch (const emulator::KernelError& error) {
    return error.text;
  }
  std::string text = "no error:";
  for (int i : {0, 1, 62, 63}) text += " " + std::to_string(static_cast<int>(out[i]));
  return text;
}

}  // namespace
}  // namespace openalpaca::cuda

int main(int count, char** names) {
  using namespace openalpaca::cuda;
  for (int i = 1; i < count; ++i) {
    const char* name = names[i];
#define OPENALPACA_RUN(kernel) \
  if (std::strcmp(name, #kernel) == 0) std::printf("%s\n", outcome(kernel).c_str());
    OPENALPACA_KERNELS(OPENALPACA_RUN)
  }
}
