// Collectives between GPUs over NCCL; the library is opened when the first communicator is created.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "core/communicator.h"
#include "cuda/runtime/context.h"

namespace openalpaca::cuda {

// A CUDA stream's interface for libraries that enqueue their own work.
class NativeStream {
 public:
  virtual ~NativeStream() = default;
  // `errors` receives errors that occur later, before the stream has completed the work.
  using NativeFunction = std::function<void(cudaStream_t stream, const std::shared_ptr<HostErrors>& errors)>;
  // Calls `enqueue` immediately, under the rules for ops: it is skipped on a poisoned stream, and an exception poisons
  // the stream. The objects in `kept` stay alive until the work has run.
  virtual void native(const char* name, const std::vector<std::shared_ptr<void>>& kept,
                      const NativeFunction& enqueue) = 0;
};

// "2.28.3". Throws Error("LIBRARY_NOT_FOUND").
std::string nccl_version();

// For a GPU that no other rank uses. A collective that takes longer than `timeout` fails. Throws
// Error("LIBRARY_NOT_FOUND").
std::shared_ptr<Communicator> make_nccl(std::shared_ptr<const Context> context, int rank, int size,
                                        std::chrono::milliseconds timeout);

}  // namespace openalpaca::cuda
