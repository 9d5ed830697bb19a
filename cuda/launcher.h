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

// What a kernel found wrong with its data; the first one of a stream is kept until the next synchronisation. One word
// of each, so that it can be written without a lock: see report().
struct Fault {
  int32_t op = 0;     // index in OPENALPACA_OPS + 1; 0: no fault
  int32_t index = 0;  // where in the argument: a token, a sequence
  int32_t value = 0;  // what stood there
  int32_t limit = 0;  // what it had to be below
};

struct Launcher {
  const char* op;    // for errors: "rmsnorm_forward"
  int32_t op_index;  // for faults
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
