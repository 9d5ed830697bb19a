#include "cuda/runtime/stream.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "cuda/runtime/faults.h"

namespace openalpaca::cuda {
namespace {

// Large copies are split into pieces of this size, long enough that the startup cost is negligible.
constexpr size_t kBounce = 4 << 20;
// Without a notify, a stream releases its memory after this many storages.
constexpr size_t kMostKept = 4096;

// Lists the tensors of an op.
template <class F>
struct Tensors {
  F each;
  void operator()(const char*, Tensor& tensor, const char*) { each(tensor); }
  template <class T, class... Rest>
  void optional(const char* name, T& value, Rest... rest) {
    (*this)(name, value, rest...);
  }
  template <class T>
  void operator()(const char*, T&) {}
  void operator()(const char*, int64_t&, const char*) {}
  void multiple(const char*, int64_t, const char*, int64_t) {}
  void same_length(const char*, const Tensor&, const char*, const Tensor&) {}
};

// A host-to-host copy in stream order, unless an error occurred before.
struct HostCopy {
  void* to;
  const void* from;
  size_t bytes;
  std::shared_ptr<Storage> fault;  // a page-locked copy of the fault word, or nullptr
  std::shared_ptr<HostErrors> errors;
};

void copy_on_host(void* data) {
  const auto* copy = static_cast<const HostCopy*>(data);
  if (copy->errors->first() || (copy->fault && static_cast<const Fault*>(copy->fault->data())->op != 0)) return;
  std::memcpy(copy->to, copy->from, copy->bytes);
}

}  // namespace

// ---- events and graphs ----------------------------------------------------------------------------------------------

CudaEvent::CudaEvent(unsigned flags) { check(cudaEventCreateWithFlags(&event_, flags), "event"); }
CudaEvent::~CudaEvent() {
  if (cudaEventDestroy(event_) != cudaSuccess) cudaGetLastError();
}

CudaGraph::~CudaGraph() {
  if (executable && cudaGraphExecDestroy(executable) != cudaSuccess) cudaGetLastError();
}

// ---- the watcher ----------------------------------------------------------------------------------------------------

Watcher::Watcher(std::shared_ptr<const Context> context) : context_(std::move(context)), thread_([this] { loop(); }) {}

void Watcher::watch(Passing passing) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(passing));
  }
  changed_.notify_all();
}

void Watcher::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty() && !busy_; });
}

void Watcher::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Watcher::loop() {
  cudaSetDevice(context_->ordinal);  // a per-thread setting; if it fails, so do the calls below
  for (;;) {
    Passing passing;
    {
      std::unique_lock lock(mutex_);
      busy_ = false;
      changed_.notify_all();
      changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      passing = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
    }
    pass(passing);
  }
}

void Watcher::pass(Passing& passing) {
  std::exception_ptr error;
  try {
    if (passing.event) check(cudaEventSynchronize(passing.event->get()), "synchronize");
    if (passing.fault) error = error_of(*static_cast<const Fault*>(passing.fault->data()));
    if (!error && passing.host_errors) error = passing.host_errors->first();
  } catch (const Error&) {
    error = std::current_exception();
  }
  if (!error) error = passing.error;  // faults are of ops before the one that could not be enqueued
  if (!error_) error_ = error;
  passing.fault.reset();
  passing.kept.clear();
  passing.event.reset();
  if (passing.callback) passing.callback(std::exchange(error_, nullptr));
}

// ---- the stream -----------------------------------------------------------------------------------------------------

CudaStream::CudaStream(std::shared_ptr<const Context> context) : context_(std::move(context)), watcher_(context_) {
  context_->activate("stream");
  fault_ = context_->allocate(sizeof(Fault));
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  check(cudaMemsetAsync(fault_->data(), 0, sizeof(Fault), stream_), "stream");
}

// Finishes the enqueued work first: callers may be waiting for it.
CudaStream::~CudaStream() {
  if (abandoned_) return;  // the process is ending
  if (capture_) {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  }
  watcher_.stop();
  cudaStreamSynchronize(stream_);
  host_calls_.reset();
  cudaStreamDestroy(stream_);
  cudaGetLastError();
}

void CudaStream::abandon() {
  if (abandoned_) return;
  abandoned_ = true;
  cudaSetDevice(context_->ordinal);
  cudaStreamSynchronize(stream_);  // work in the GPU's queue cannot be canceled
  watcher_.stop();
  host_calls_.reset();
}

// Op numbers in fault words.
enum : int32_t {
  no_op,
#define OPENALPACA_NUMBER(Args, function) number_of_##function,
  OPENALPACA_OPS(OPENALPACA_NUMBER)
#undef OPENALPACA_NUMBER
};
#define OPENALPACA_ENQUEUE(Args, function) \
  void CudaStream::function(const Args& args) { enqueue(number_of_##function, args, cuda::function); }
OPENALPACA_OPS(OPENALPACA_ENQUEUE)
#undef OPENALPACA_ENQUEUE

template <class Args>
void CudaStream::enqueue(int32_t op_index, const Args& args, void (*launcher)(const Args&, const Launcher&)) {
  guarded([&] {
    const auto keep_operands = [&] {
      Args copy = args;
      Tensors visitor{[&](Tensor& tensor) { keep(std::move(tensor.storage)); }};
      copy.fields(visitor);
    };
    keep_operands();
    void* fault = (capture_ ? capture_->fault : fault_)->data();
    launcher(args,
             {Args::name, op_index, stream_, context_->chip, fault, [this](size_t bytes) { return workspace(bytes); }});
    // Allocating workspace may have waited for all retained storages and released them.
    if (!capture_ && kept_.empty()) keep_operands();
  });
  if (kept_.size() > kMostKept && !capture_) flush({});
}

template <class F>
void CudaStream::guarded(F&& function) {
  if (error_ && !capture_) return;
  try {
    context_->activate("stream");
    function();
  } catch (const Error&) {
    if (capture_) throw;
    error_ = std::current_exception();
  }
}

void CudaStream::refuse_capture(const char* what) const {
  if (capture_) throw Error("CAPTURING", std::string("cannot ") + what + " while a graph is being recorded");
}

void CudaStream::keep(std::shared_ptr<void> owner) {
  if (!owner) return;
  if (capture_) {
    capture_->kept.push_back(std::move(owner));
  } else if (is_kept_.insert(owner.get()).second) {
    kept_.push_back(std::move(owner));
  }
}

void* CudaStream::workspace(size_t bytes) {
  auto& storage = (capture_ ? capture_->workspace : workspace_).storage;
  if (!storage || storage->bytes() < bytes) {
    keep(std::move(storage));
    storage = context_->allocate(bytes);
  }
  return storage->data();
}

void* CudaStream::bounce() {
  if (!bounce_) bounce_ = context_->host_memory->allocate(kBounce);
  return bounce_->data();
}

// ---- copies ---------------------------------------------------------------------------------------------------------

// From pageable memory CUDA would wait for the stream before it returns. So the pieces go through page-locked memory,
// each copied there when the stream reaches it.
void CudaStream::write(const Tensor& destination, const void* source) {
  refuse_capture("write from memory of the caller");
  guarded([&] {
    keep(destination.storage);
    for (size_t at = 0; at < destination.bytes(); at += kBounce) {
      const size_t bytes = std::min(kBounce, destination.bytes() - at);
      const auto* from = static_cast<const char*>(source) + at;
      auto copy = std::make_shared<HostCopy>(HostCopy{bounce(), from, bytes, nullptr, host_errors_});
      check(cudaLaunchHostFunc(stream_, copy_on_host, copy.get()), "write");
      keep(copy);
      check(
          cudaMemcpyAsync(static_cast<char*>(destination.raw()) + at, bounce(), bytes, cudaMemcpyHostToDevice, stream_),
          "write");
    }
  });
}

// Small: copied to page-locked memory immediately.
void CudaStream::write(const Tensor& destination, std::shared_ptr<std::vector<uint8_t>> source) {
  guarded([&] {
    const size_t bytes = destination.bytes();
    if (bytes == 0) return;
    keep(destination.storage);
    auto staging = context_->host_memory->allocate(bytes);
    std::memcpy(staging->data(), source->data(), bytes);
    keep(staging);
    check(cudaMemcpyAsync(destination.raw(), staging->data(), bytes, cudaMemcpyHostToDevice, stream_), "write");
  });
}

void CudaStream::read(void* destination, const Tensor& source) {
  refuse_capture("read");
  guarded([&] {
    if (source.bytes() == 0) return;
    keep(source.storage);
    // After a fault the destination remains unchanged.
    auto fault = context_->host_memory->allocate(sizeof(Fault));
    check(cudaMemcpyAsync(fault->data(), fault_->data(), sizeof(Fault), cudaMemcpyDeviceToHost, stream_), "read");
    for (size_t at = 0; at < source.bytes(); at += kBounce) {
      const size_t bytes = std::min(kBounce, source.bytes() - at);
      check(cudaMemcpyAsync(bounce(), static_cast<char*>(source.raw()) + at, bytes, cudaMemcpyDeviceToHost, stream_),
            "read");
      auto* to = static_cast<char*>(destination) + at;
      auto copy = std::make_shared<HostCopy>(HostCopy{to, bounce(), bytes, fault, host_errors_});
      check(cudaLaunchHostFunc(stream_, copy_on_host, copy.get()), "read");
      keep(copy);
    }
  });
}

// Calls run one after another, so they share one buffer.
const std::shared_ptr<Storage>& CudaStream::staging(size_t bytes) {
  if (!staging_ || staging_->bytes() < bytes) {
    keep(std::move(staging_));
    staging_ = context_->host_memory->allocate(bytes, context_->reclaim);
  }
  return staging_;
}

void CudaStream::call(const char* name, const std::vector<HostOperand>& operands, HostFunction function) {
  refuse_capture(name);
  guarded([&] {
    std::vector<Tensor> copies;
    size_t bytes = 0;
    for (const auto& [tensor, use] : operands) {
      copies.push_back(tensor);
      copies.back().offset = bytes;
      constexpr size_t kAlignment = 256;
      bytes += (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    }
    for (Tensor& copy : copies) copy.storage = staging(bytes);
    using Use = HostOperand::Use;
    for (size_t i = 0; i < operands.size(); ++i) {
      const auto& [tensor, use] = operands[i];
      keep(tensor.storage);
      if (use == Use::written || tensor.bytes() == 0) continue;
      check(cudaMemcpyAsync(copies[i].raw(), tensor.raw(), tensor.bytes(), cudaMemcpyDeviceToHost, stream_), name);
    }
    if (!host_calls_) host_calls_ = std::make_unique<HostCalls>(context_);
    auto run = [function = std::move(function), copies] { function(copies); };
    host_calls_->enqueue(stream_, name, std::move(run), host_errors_);
    for (size_t i = 0; i < operands.size(); ++i) {
      const auto& [tensor, use] = operands[i];
      if (use == Use::read || tensor.bytes() == 0) continue;
      check(cudaMemcpyAsync(tensor.raw(), copies[i].raw(), tensor.bytes(), cudaMemcpyHostToDevice, stream_), name);
    }
  });
}

void CudaStream::native(const char* name, const std::vector<std::shared_ptr<void>>& kept,
                        const NativeFunction& enqueue) {
  refuse_capture(name);
  guarded([&] {
    for (const auto& owner : kept) keep(owner);
    enqueue(stream_, host_errors_);
  });
}

// ---- events and graphs ----------------------------------------------------------------------------------------------

void CudaStream::record(const std::shared_ptr<Event>& event) {
  refuse_capture("record an event");
  context_->activate("record");
  check(cudaEventRecord(static_cast<CudaEvent&>(*event).get(), stream_), "record");
}

void CudaStream::wait(const std::shared_ptr<Event>& event) {
  refuse_capture("wait for an event");
  context_->activate("wait");
  check(cudaStreamWaitEvent(stream_, static_cast<CudaEvent&>(*event).get(), 0), "wait");
}

void CudaStream::begin_capture() {
  refuse_capture("begin another capture");
  context_->activate("capture");
  auto graph = std::make_shared<CudaGraph>();
  graph->fault = context_->allocate(sizeof(Fault));
  check(cudaMemsetAsync(graph->fault->data(), 0, sizeof(Fault), stream_), "capture");
  // The memset must complete before the graph runs, on whatever stream.
  check(cudaStreamSynchronize(stream_), "capture");
  // Relaxed: an op may allocate workspace while it is recorded.
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "capture");
  capture_ = std::move(graph);
}

std::shared_ptr<Graph> CudaStream::end_capture() {
  if (!capture_) throw Error("NOT_CAPTURING", "end_capture: no capture was begun on this stream");
  const auto graph = std::exchange(capture_, nullptr);
  cudaGraph_t recorded = nullptr;
  check(cudaStreamEndCapture(stream_, &recorded), "capture");
  const cudaError_t status = cudaGraphInstantiate(&graph->executable, recorded, 0);
  cudaGraphDestroy(recorded);
  check(status, "capture");
  return graph;
}

void CudaStream::launch(const std::shared_ptr<Graph>& graph) {
  refuse_capture("launch a graph");
  guarded([&] {
    auto cuda_graph = std::static_pointer_cast<CudaGraph>(graph);
    keep(cuda_graph);
    check(cudaGraphLaunch(cuda_graph->executable, stream_), "launch");
    move_fault(fault_->data(), cuda_graph->fault->data(), stream_);
  });
}

// ---- waiting --------------------------------------------------------------------------------------------------------

void CudaStream::notify(std::function<void(std::exception_ptr)> callback) {
  check_notifiable();
  flush(std::move(callback));
}

// Hands the enqueued work to the watcher. With a callback, the fault word is read and cleared in stream order.
void CudaStream::flush(std::function<void(std::exception_ptr)> callback) {
  Passing passing;
  try {
    context_->activate("synchronize");
    if (callback) {
      passing.fault = context_->host_memory->allocate(sizeof(Fault));
      std::memset(passing.fault->data(), 0, sizeof(Fault));
      check(cudaMemcpyAsync(passing.fault->data(), fault_->data(), sizeof(Fault), cudaMemcpyDeviceToHost, stream_),
            "synchronize");
      check(cudaMemsetAsync(fault_->data(), 0, sizeof(Fault), stream_), "synchronize");
    }
    auto event = std::make_shared<CudaEvent>(cudaEventBlockingSync | cudaEventDisableTiming);
    check(cudaEventRecord(event->get(), stream_), "synchronize");
    passing.event = std::move(event);
  } catch (const Error&) {
    if (!error_) error_ = std::current_exception();
  }
  if (callback) {
    passing.error = std::exchange(error_, nullptr);
    passing.host_errors = std::exchange(host_errors_, std::make_shared<HostErrors>());
  }
  passing.kept = std::exchange(kept_, {});
  is_kept_.clear();
  passing.callback = std::move(callback);
  watcher_.watch(std::move(passing));
}

void CudaStream::reclaim() {
  if (!capture_ && !abandoned_ && !kept_.empty()) flush({});
  watcher_.drain();
}

}  // namespace openalpaca::cuda
