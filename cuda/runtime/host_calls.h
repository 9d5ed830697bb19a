// Host functions in stream order that may block: collectives over the network.
//
// cudaLaunchHostFunc is not suitable: CUDA may run the host functions of all streams on one thread, and reads and
// uploads end in one, so a collective that waits for other ranks would delay every `await` of the program, including
// work that the other ranks may be waiting for. So a stream that makes such calls has its own thread. The thread waits
// for an event, runs the function, and sets a flag in page-locked memory; the stream waits for the flag with
// cuStreamWaitValue32, which the GPU does without a kernel: it blocks neither a multiprocessor nor CUDA's thread.
//
// Ranks cannot deadlock. Suppose that collective k is the first that never ends. On a rank that has not enqueued it,
// all collectives before k have ended, so no stream waits for another rank, all enqueued work ends, and the program
// reaches k. On a rank that has, the work before k ends for the same reason, and the thread runs k. This holds even
// where CUDA makes a call of the program wait for all streams, as cudaFree may: such a call comes before or after the
// same collective on every rank. It relies on the requirement of core/communicator.h: the same calls in the same order.
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
  // Runs the enqueued calls first: the stream waits for them.
  ~HostCalls();

  // An exception from the function is added to `errors`, as is an earlier error of the device. If there is an error
  // already, the function is skipped. Throws Error("UNSUPPORTED") if the driver does not support such waits.
  void enqueue(cudaStream_t stream, const char* name, std::function<void()> function,
               std::shared_ptr<HostErrors> errors);

 private:
  struct Call {
    const char* name;
    std::function<void()> function;
    std::shared_ptr<HostErrors> errors;
    std::shared_ptr<CudaEvent> begin;
    uint32_t number;  // the flag's value once the call has ended
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
  std::thread thread_;  // last: starts after the other members are initialized
};

}  // namespace openalpaca::cuda
