// Collectives between GPUs over NCCL, whose library is opened when the first communicator is made.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "core/communicator.h"
#include "cuda/runtime/context.h"

namespace openalpaca::cuda {

// What a CUDA stream offers to a library that enqueues work of its own.
class NativeStream {
 public:
  virtual ~NativeStream() = default;
  // `errors` is where to put what goes wrong later, before the stream has come to the end of the work.
  using NativeFunction = std::function<void(cudaStream_t stream, const std::shared_ptr<HostErrors>& errors)>;
  // Calls `enqueue` at once, by the rules for ops: passed over on a poisoned stream, and what it throws poisons. What
  // is in `kept` lives until the work has run.
  virtual void native(const char* name, const std::vector<std::shared_ptr<void>>& kept,
                      const NativeFunction& enqueue) = 0;
};

// "2.28.3". Throws Error("LIBRARY_NOT_FOUND").
std::string nccl_version();

// For a GPU that no other rank has. A collective that takes longer than `timeout` fails. Throws
// Error("LIBRARY_NOT_FOUND").
std::shared_ptr<Communicator> make_nccl(std::shared_ptr<const Context> context, int rank, int size,
                                        std::chrono::milliseconds timeout);

}  // namespace openalpaca::cuda
