// The interface of a device to the layers above: memory, streams, events, and graphs. `cpu` and `cuda` behave the same.
#pragma once

#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/ops.h"

namespace openalpaca {

// An error that programs can distinguish; `code` becomes error.code in JavaScript.
class Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& message) : std::runtime_error(message), code_(std::move(code)) {}
  const std::string& code() const { return code_; }

 private:
  std::string code_;
};

class Communicator;  // core/communicator.h

// A point in a stream's order, set by Stream::record and awaited by Stream::wait. Recording again moves it.
class Event {
 public:
  virtual ~Event() = default;
};

// Work recorded once and launched many times.
class Graph {
 public:
  virtual ~Graph() = default;
};

// A tensor that a host function accesses, and how.
struct HostOperand {
  enum class Use { read, written, both };
  Tensor tensor;
  Use use;
};

// Executes work in order; calls return at once. An op that fails poisons the stream until the next notify, whose
// callback receives the error. Until then the CPU skips all further ops. On a GPU, later kernels have usually been
// launched by the time a fault is found, and checking a flag in each would be slow; they may run, and leave undefined
// values in the tensors that they write. Every device skips two ops: adamw, which keeps parameters and optimizer state
// intact, and read, which keeps the host's memory intact.
class Stream {
 public:
  virtual ~Stream() = default;

#define OPENALPACA_DECLARE(Args, function) virtual void function(const Args&) = 0;
  OPENALPACA_OPS(OPENALPACA_DECLARE)
#undef OPENALPACA_DECLARE

  // Copies between host and device memory. The host memory must stay valid and unchanged until a later notify has
  // called back; the overload that takes a vector keeps it alive itself.
  virtual void write(const Tensor& destination, const void* source) = 0;
  virtual void write(const Tensor& destination, std::shared_ptr<std::vector<uint8_t>> source) = 0;
  virtual void read(void* destination, const Tensor& source) = 0;

  // Runs a host function in stream order, such as a collective over the network; an exception poisons the stream. It
  // receives the operands in host memory, either the tensors themselves or copies: inputs are valid when it starts, and
  // outputs are in the tensors when the stream continues. It may block, except on work that its own process enqueues
  // later; other streams continue.
  using HostFunction = std::function<void(const std::vector<Tensor>& operands)>;
  virtual void call(const char* name, const std::vector<HostOperand>& operands, HostFunction function) = 0;

  virtual void record(const std::shared_ptr<Event>& event) = 0;
  virtual void wait(const std::shared_ptr<Event>& event) = 0;

  // Between the two, ops are recorded instead of run.
  virtual void begin_capture() = 0;
  virtual std::shared_ptr<Graph> end_capture() = 0;
  virtual void launch(const std::shared_ptr<Graph>& graph) = 0;

  // Calls back, on any thread, when all work enqueued so far has completed, with the first error since the last notify
  // or with nullptr. The callback must not throw.
  virtual void notify(std::function<void(std::exception_ptr)> callback) = 0;
  // For the end of the process: drops all queued work, and returns when no op is running. No calls may follow.
  virtual void abandon() = 0;
  // Throws if notify would: a graph cannot hold a callback.
  virtual void check_notifiable() const = 0;
};

struct DeviceProperties {
  std::string name;                            // "AMD EPYC 9654", "NVIDIA H100 80GB HBM3"
  std::string isa;                             // the kernels in use: "avx512_bf16", "sm_90"
  int units = 0;                               // threads, or multiprocessors
  bool fast_bfloat16 = false;                  // bfloat16 matrix products in hardware
  std::string id;                              // the GPU's UUID; empty for the CPU
  uint64_t total_memory = 0, free_memory = 0;  // bytes
};

// Third-party libraries in use, with their versions: "oneDNN" and "2.6.3".
using LibraryVersions = std::vector<std::pair<std::string, std::string>>;

class Device {
 public:
  virtual ~Device() = default;
  virtual const char* type() const = 0;  // "cpu", "cuda"
  virtual DeviceProperties properties() const = 0;
  // Opens libraries that are not open yet; optional ones may be "not found", or "not in this build".
  virtual LibraryVersions libraries() const = 0;
  // Uninitialized memory, aligned to at least 64 bytes. Throws Error("OUT_OF_MEMORY").
  virtual std::shared_ptr<Storage> allocate(size_t bytes) = 0;
  virtual std::shared_ptr<Stream> make_stream() = 0;
  virtual std::shared_ptr<Event> make_event() = 0;
  // For collectives by the device's own library, such as NCCL. Throws Error("UNSUPPORTED") on devices that have none
  // and use Gloo, and Error("LIBRARY_NOT_FOUND").
  virtual std::shared_ptr<Communicator> make_communicator(int, int, std::chrono::milliseconds) {
    throw Error("UNSUPPORTED", std::string("the device ") + type() + " has no collective library: use Gloo");
  }
  // The number of CPU threads that an op may use; no effect on a GPU.
  virtual void set_threads(int) {}
};

}  // namespace openalpaca
