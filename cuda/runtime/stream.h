// Streams, events, and graphs of the CUDA runtime.
//
// Calls enqueue and return. One thread per stream, the watcher, waits: notify() records an event after the work and
// hands it over, with everything that the work since the last time must keep alive; the watcher waits for the event,
// checks the fault word, releases the memory, and calls back. (A callback enqueued by cudaLaunchHostFunc would be
// simpler, but CUDA does not run it after the device is lost, which is exactly when the error must be reported.)
//
// Memory: an enqueued op's operands must not be reused before the op has run. `kept_` therefore holds the storages of
// all ops since the last event that was handed to the watcher. So a Storage's last reference is dropped either before
// any work on it was enqueued, or after the watcher has seen all of that work complete; at that point the block is free
// for any stream. A graph holds the storages of its ops, and a launch holds the graph.
#pragma once

#include <cuda_runtime.h>

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <vector>

#include "collectives/nccl.h"
#include "cuda/runtime/context.h"
#include "cuda/runtime/host_calls.h"

namespace openalpaca::cuda {

// Device memory of one stream or graph for its ops. When it grows, `keep` retains the previous pieces, since enqueued
// or recorded ops use them.
struct Workspace {
  std::shared_ptr<Storage> storage;
};

class CudaGraph : public Graph {
 public:
  ~CudaGraph() override;

  cudaGraphExec_t executable = nullptr;
  std::shared_ptr<Storage> fault;  // the graph's own fault word: it may be launched on any stream
  Workspace workspace;             // the graph's own, for the same reason
  std::vector<std::shared_ptr<void>> kept;
};

// Work in flight, up to an event, and the actions for its completion.
struct Passing {
  std::shared_ptr<CudaEvent> event;  // nullptr if recording it failed
  std::vector<std::shared_ptr<void>> kept;
  std::shared_ptr<Storage> fault;  // a page-locked copy of the fault word, or nullptr
  std::shared_ptr<HostErrors> host_errors;
  std::exception_ptr error;  // from enqueueing itself
  std::function<void(std::exception_ptr)> callback;
};

class Watcher {
 public:
  explicit Watcher(std::shared_ptr<const Context> context);
  ~Watcher() { stop(); }

  void watch(Passing passing);
  // Waits until all handed-over work has completed.
  void drain();
  // Drains, then ends the thread.
  void stop();

 private:
  void loop();
  void pass(Passing& passing);

  const std::shared_ptr<const Context> context_;
  std::exception_ptr error_;  // not reported yet; accessed only by the watcher's thread
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Passing> queue_;
  bool busy_ = false, stopping_ = false;
  std::thread thread_;
};

class CudaStream : public Stream, public NativeStream {
 public:
  explicit CudaStream(std::shared_ptr<const Context> context);
  ~CudaStream() override;

#define OPENALPACA_OVERRIDE(Args, function) void function(const Args& args) override;
  OPENALPACA_OPS(OPENALPACA_OVERRIDE)
#undef OPENALPACA_OVERRIDE

  void write(const Tensor& destination, const void* source) override;
  void write(const Tensor& destination, std::shared_ptr<std::vector<uint8_t>> source) override;
  void read(void* destination, const Tensor& source) override;
  void call(const char* name, const std::vector<HostOperand>& operands, HostFunction function) override;
  void native(const char* name, const std::vector<std::shared_ptr<void>>& kept, const NativeFunction& enqueue) override;
  void record(const std::shared_ptr<Event>& event) override;
  void wait(const std::shared_ptr<Event>& event) override;
  void begin_capture() override;
  std::shared_ptr<Graph> end_capture() override;
  void launch(const std::shared_ptr<Graph>& graph) override;
  void notify(std::function<void(std::exception_ptr)> callback) override;
  void abandon() override;
  void check_notifiable() const override { refuse_capture("synchronize"); }

  // Waits for enqueued work, if possible, and releases its memory.
  void reclaim();

 private:
  template <class Args>
  void enqueue(int32_t op_index, const Args& args, void (*launcher)(const Args&, const Launcher&));
  // Runs a function that makes CUDA calls. Like an op's error, an error in them is reported by the next notify, and all
  // work until then is skipped; in a capture it is thrown.
  template <class F>
  void guarded(F&& function);
  void refuse_capture(const char* what) const;
  void keep(std::shared_ptr<void> owner);
  void* workspace(size_t bytes);
  void* bounce();
  const std::shared_ptr<Storage>& staging(size_t bytes);
  void flush(std::function<void(std::exception_ptr)> callback);

  const std::shared_ptr<const Context> context_;
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<Storage> fault_;  // one Fault, in device memory
  Workspace workspace_;
  std::shared_ptr<Storage> bounce_;   // page-locked memory that large copies go through
  std::shared_ptr<Storage> staging_;  // page-locked memory for the operands of calls
  std::shared_ptr<CudaGraph> capture_;
  std::exception_ptr error_;
  std::vector<std::shared_ptr<void>> kept_;
  std::shared_ptr<HostErrors> host_errors_ = std::make_shared<HostErrors>();  // since the last notify
  std::unordered_set<const void*> is_kept_;
  bool abandoned_ = false;
  std::unique_ptr<HostCalls> host_calls_;  // created by the first call
  Watcher watcher_;
};

}  // namespace openalpaca::cuda
