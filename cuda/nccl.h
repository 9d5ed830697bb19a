// Collectives between GPUs over NCCL, whose library is opened when the first communicator is made.
#pragma once

#include <cuda_runtime.h>

#include <chrono>
#include <functional>

#include "core/communicator.h"

namespace openalpaca::cuda {

// What a CUDA stream offers to a library that enqueues work of its own.
class NativeStream {
 public:
  virtual ~NativeStream() = default;
  // Calls `enqueue` at once with the stream's handle, by the rules for ops: passed over on a poisoned stream, and what
  // it throws poisons. The operands' memory lives until the work has run.
  virtual void native(const char* name, const std::vector<Tensor>& operands,
                      const std::function<void(cudaStream_t)>& enqueue) = 0;
  // Poisons the stream from any thread, for work that ended without having been done.
  virtual void poison(const Error& error) = 0;
};

// For the GPU `ordinal`. A collective that takes longer than `timeout` fails. Throws Error("LIBRARY_NOT_FOUND").
std::shared_ptr<Communicator> make_nccl(int ordinal, int rank, int size, std::chrono::milliseconds timeout);

}  // namespace openalpaca::cuda
