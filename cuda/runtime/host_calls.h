// Functions of the host in a stream's turn, which may take their time: collectives over the network.
//
// CUDA has cudaLaunchHostFunc, and it will not do for them. CUDA may run the host functions of all streams on one
// thread, and reads and uploads end in one: a collective that waits for other ranks would hold up every `await` of the
// program, in it what the other ranks may be waiting for. So a stream that makes such calls has a thread of its own.
// The thread waits for an event, runs the function and raises a flag in page-locked memory, and the stream waits for
// the flag by cuStreamWaitValue32, which the GPU does without a kernel: neither a multiprocessor nor CUDA's thread is
// held.
//
// Ranks cannot wait for each other in a circle. Let collective k be the first that never ends. On a rank that has not
// enqueued it, all collectives before k have ended, so no stream waits for another rank, all that is enqueued ends, and
// the program comes to k. On a rank that has, the work before k ends for the same reason, and the thread runs k. This
// stays true where CUDA makes a call of the program wait for all streams, as cudaFree may: such a call comes before or
// after the same collective on every rank. It takes what core/communicator.h asks for: the same calls in the same
// order.
#pragma once

#include <cuda_runtime.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "cuda/runtime/context.h"

namespace openalpaca::cuda {

class HostCalls {
 public:
  explicit HostCalls(std::shared_ptr<const Context> context);
  // Runs what is enqueued first: the stream waits for it.
  ~HostCalls();

  // What the function throws goes to `errors`, and so does what the device has found before; then, or where there is an
  // error already, it is passed over. Throws Error("UNSUPPORTED") where the driver has no such waiting.
  void enqueue(cudaStream_t stream, const char* name, std::function<void()> function,
               std::shared_ptr<HostErrors> errors);

 private:
  struct Call {
    const char* name;
    std::function<void()> function;
    std::shared_ptr<HostErrors> errors;
    std::shared_ptr<CudaEvent> begin;
    uint32_t number;  // of the flag, when it has ended
  };
  void loop();
  static void run(const Call& call);

  const std::shared_ptr<const Context> context_;
  const std::shared_ptr<Storage> flag_;  // uint32_t: the number of the last call that has ended
  uint32_t enqueued_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Call> queue_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts when the rest is ready
};

}  // namespace openalpaca::cuda
