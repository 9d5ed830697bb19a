// What a launcher function is given beside its op's arguments: the stream, the chip, and memory for the op's own use.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>

#include "core/ops.h"

namespace openalpaca::cuda {

// What a choice between kernels, or of a kernel's tiles, may depend on.
struct Chip {
  int compute_capability = 0;  // 80, 86, 90, …
  int multiprocessors = 0;
  int shared_per_block = 0;  // bytes, with the opt-in
  int shared_per_multiprocessor = 0;
};

// What kernels found wrong with their data, kept until the next synchronisation: of the first op that found something,
// the finding with the lowest index, whatever the order in which threads come. Kernels write it with report()
// (kernel.cuh), the device makes a sentence of it (faults.cpp). Zero everywhere is no fault.
struct Fault {
  int32_t op = 0;      // index in OPENALPACA_OPS + 1
  int32_t limit = 0;   // what the value had to be below
  uint64_t where = 0;  // the complement of: index in the argument (31 bits), rule (1 bit), value (32 bits)
};

struct Launcher {
  const char* op;    // for errors: "rmsnorm_forward"
  int32_t op_index;  // for faults: as Fault::op
  cudaStream_t stream;
  const Chip& chip;
  void* fault;  // device memory: one Fault
  // Device memory of the stream, for the op being launched; the next op gets the same bytes. Uninitialised, aligned to
  // 256 bytes. Throws Error("OUT_OF_MEMORY").
  std::function<void*(size_t bytes)> workspace;
};

// Throws Error("CUDA_ERROR" or a more telling code) with the op's name and CUDA's words.
void check(cudaError_t status, const char* what);

// Every op of core/ops.h, one file each: enqueues its kernels and returns.
#define OPENALPACA_DECLARE(Args, function) void function(const Args& args, const Launcher& on);
OPENALPACA_OPS(OPENALPACA_DECLARE)
#undef OPENALPACA_DECLARE

}  // namespace openalpaca::cuda
