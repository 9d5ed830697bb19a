// Streams, events and graphs of the CUDA runtime.
//
// A call enqueues and returns. What waits is a thread per stream, the watcher: notify() records an event behind the
// work and hands it over, with everything that the work since the last time must keep alive; the watcher waits for the
// event, looks at the fault word, lets go and calls back. (A callback enqueued by cudaLaunchHostFunc would be simpler,
// but CUDA does not call it when the device is lost, which is when somebody should hear of it.)
//
// Memory. Whatever an enqueued op names must not be given to another before the op has run. `kept_` therefore holds the
// storages of all ops since the last event that was handed to the watcher. So a Storage's last reference goes either
// before anything was enqueued on it, or when the watcher has seen everything pass that was; and when it goes, the
// block is free for any stream. A graph holds the storages of its ops, and a launch holds the graph.
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

// Device memory of one stream or graph for its ops: the pieces that it has grown out of are kept by `keep`, because ops
// that are enqueued or recorded use them.
struct Workspace {
  std::shared_ptr<Storage> storage;
};

class CudaGraph : public Graph {
 public:
  ~CudaGraph() override;

  cudaGraphExec_t executable = nullptr;
  std::shared_ptr<Storage> fault;  // the graph's own fault word: it may be launched on any stream
  Workspace workspace;             // and its own working memory, for the same reason
  std::vector<std::shared_ptr<void>> kept;
};

// Work on its way, up to an event, and what has to happen when it has passed.
struct Passing {
  std::shared_ptr<CudaEvent> event;  // nullptr where recording it failed
  std::vector<std::shared_ptr<void>> kept;
  std::shared_ptr<Storage> fault;  // a page-locked copy of the fault word, or nullptr
  std::shared_ptr<HostErrors> host_errors;
  std::exception_ptr error;  // of the enqueueing itself
  std::function<void(std::exception_ptr)> callback;
};

class Watcher {
 public:
  explicit Watcher(std::shared_ptr<const Context> context);
  ~Watcher() { stop(); }

  void watch(Passing passing);
  // Until all that was handed over has passed.
  void drain();
  // drain, and then no more.
  void stop();

 private:
  void loop();
  void pass(Passing& passing);

  const std::shared_ptr<const Context> context_;
  std::exception_ptr error_;  // of work that nobody has asked after yet; of the watcher's thread alone
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

  // Waits for what is enqueued, if it can, and lets go of its memory.
  void reclaim();

 private:
  template <class Args>
  void enqueue(int32_t op_index, const Args& args, void (*launcher)(const Args&, const Launcher&));
  // Runs a function that makes CUDA calls. An error in them is told by the next notify, as an op's own is, and what
  // follows until then is passed over; in a capture it is thrown.
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
  std::shared_ptr<Storage> staging_;  // and that which holds the operands of calls
  std::shared_ptr<CudaGraph> capture_;
  std::exception_ptr error_;
  std::vector<std::shared_ptr<void>> kept_;
  std::shared_ptr<HostErrors> host_errors_ = std::make_shared<HostErrors>();  // since the last notify
  std::unordered_set<const void*> is_kept_;
  bool abandoned_ = false;
  std::unique_ptr<HostCalls> host_calls_;  // since the first call
  Watcher watcher_;
};

}  // namespace openalpaca::cuda
