// A launcher function's context besides its op's arguments: the stream, the chip, and workspace memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

#include "core/ops.h"

namespace openalpaca::cuda {

// The properties that the choice of a kernel, or of its tiles, may depend on.
struct Chip {
  int compute_capability = 0;  // 80, 86, 90, …
  int multiprocessors = 0;
  int shared_per_block = 0;  // bytes, including the opt-in
  int shared_per_multiprocessor = 0;
};

// An error that kernels found in their data, kept until the next synchronization: of the first op that found one, the
// error with the lowest index, regardless of the order of threads. Kernels write it with report() (kernel.cuh); the
// device turns it into a message (faults.cpp). All zeros means no fault.
struct Fault {
  int32_t op = 0;      // index in OPENALPACA_OPS + 1
  int32_t limit = 0;   // the exclusive upper bound of the value
  uint64_t where = 0;  // the complement of: index in the argument (31 bits), rule (1 bit), value (32 bits)
};

struct Launcher {
  const char* op;    // for errors: "rmsnorm_forward"
  int32_t op_index;  // for faults: see Fault::op
  cudaStream_t stream;
  const Chip& chip;
  void* fault;  // device memory: one Fault
  // Device memory of the stream for the op being launched; the next op gets the same bytes. Uninitialized, aligned to
  // 256 bytes. Throws Error("OUT_OF_MEMORY").
  std::function<void*(size_t bytes)> workspace;
};

// Throws Error("CUDA_ERROR" or a more specific code) with the op's name and CUDA's message.
void check(cudaError_t status, const char* what);

// Every op of core/ops.h, one file each: enqueues its kernels and returns.
#define OPENALPACA_DECLARE(Args, function) void function(const Args& args, const Launcher& on);
OPENALPACA_OPS(OPENALPACA_DECLARE)
#undef OPENALPACA_DECLARE

}  // namespace openalpaca::cuda
