// The stream of a graph is unknown while it is recorded, so its kernels report to the graph's own fault word, which is
// moved to the stream's after each launch.
#include "cuda/kernel.cuh"
#include "cuda/runtime/faults.h"

namespace openalpaca::cuda {
namespace {

__global__ void move_fault_kernel(Global<Fault> to, Global<Fault> from) {
  if (from[0].op == 0) return;
  if (to[0].op == 0) to[0] = from[0];
  from[0] = Fault();
}

}  // namespace

void move_fault(void* to, void* from, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = 1;
  config.blockDim = 1;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, move_fault_kernel, global<Fault>(to, 1), global<Fault>(from, 1)), "launch");
}

}  // namespace openalpaca::cuda
