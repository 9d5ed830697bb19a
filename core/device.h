// What a device is to everybody above it: memory, streams, events and graphs. `cpu` and `cuda` mean the same here.
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

// An error that programs may want to tell apart; `code` reaches JavaScript as error.code.
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

// Work recorded once, to be launched many times.
class Graph {
 public:
  virtual ~Graph() = default;
};

// A tensor that a function of the host works on, and how.
struct HostOperand {
  enum class Use { read, written, both };
  Tensor tensor;
  Use use;
};

// Takes work in order and returns at once. An op that fails poisons the stream until the next notify, whose callback
// receives the error. On the CPU what follows until then is passed over. A GPU finds bad data when its queue is full of
// kernels that have been launched already, and to have each of them look for a fault first would slow them all: there
// what follows may run, and leaves undefined numbers in the tensors that it writes. Two things are passed over on every
// device: adamw, so that parameters and optimizer state stay as they were, and read, so that the host's memory does.
class Stream {
 public:
  virtual ~Stream() = default;

#define OPENALPACA_DECLARE(Args, function) virtual void function(const Args&) = 0;
  OPENALPACA_OPS(OPENALPACA_DECLARE)
#undef OPENALPACA_DECLARE

  // Copies between host and device memory. The host memory must stay as it is until a later notify has called back;
  // the form with a vector keeps it alive itself.
  virtual void write(const Tensor& destination, const void* source) = 0;
  virtual void write(const Tensor& destination, std::shared_ptr<std::vector<uint8_t>> source) = 0;
  virtual void read(void* destination, const Tensor& source) = 0;

  // Runs a function on the host when its turn comes, such as a collective over the network; what it throws poisons the
  // stream. It gets the operands in host memory, the tensors themselves or copies: what it reads is there when it
  // begins, and what it has written is in the tensors when the stream goes on. It may wait as long as it likes, for
  // anything but work of its own process that is enqueued later: other streams go on meanwhile.
  using HostFunction = std::function<void(const std::vector<Tensor>& operands)>;
  virtual void call(const char* name, const std::vector<HostOperand>& operands, HostFunction function) = 0;

  virtual void record(const std::shared_ptr<Event>& event) = 0;
  virtual void wait(const std::shared_ptr<Event>& event) = 0;

  // Between the two, ops are recorded instead of run.
  virtual void begin_capture() = 0;
  virtual std::shared_ptr<Graph> end_capture() = 0;
  virtual void launch(const std::shared_ptr<Graph>& graph) = 0;

  // Calls back, on any thread, when all work enqueued before has ended; with the first error since the last notify, or
  // with nullptr. The callback must not throw.
  virtual void notify(std::function<void(std::exception_ptr)> callback) = 0;
  // For the end of the process: drops what is queued, and returns when no op is running. No call may follow.
  virtual void abandon() = 0;
  // Throws what notify would: a graph cannot hold a callback.
  virtual void check_notifiable() const = 0;
};

struct DeviceProperties {
  std::string name;                            // "AMD EPYC 9654", "NVIDIA H100 80GB HBM3"
  std::string isa;                             // which code was chosen: "avx512_bf16", "sm_90"
  int units = 0;                               // threads, or multiprocessors
  bool fast_bfloat16 = false;                  // bfloat16 matrix products in hardware
  std::string id;                              // of a GPU: tells it from all others anywhere
  uint64_t total_memory = 0, free_memory = 0;  // bytes
};

// What others wrote and a device runs on: name and version, "oneDNN" and "2.6.3".
using LibraryVersions = std::vector<std::pair<std::string, std::string>>;

class Device {
 public:
  virtual ~Device() = default;
  virtual const char* type() const = 0;  // "cpu", "cuda"
  virtual DeviceProperties properties() const = 0;
  // Opens those that are not open yet; what only some runs need may be "not found", or "not in this build".
  virtual LibraryVersions libraries() const = 0;
  // Uninitialised memory, aligned to at least 64 bytes. Throws Error("OUT_OF_MEMORY").
  virtual std::shared_ptr<Storage> allocate(size_t bytes) = 0;
  virtual std::shared_ptr<Stream> make_stream() = 0;
  virtual std::shared_ptr<Event> make_event() = 0;
  // For collectives by the device's own library, as NCCL; where it has none, and Gloo serves it, throws
  // Error("UNSUPPORTED"). Also throws Error("LIBRARY_NOT_FOUND").
  virtual std::shared_ptr<Communicator> make_communicator(int, int, std::chrono::milliseconds) {
    throw Error("UNSUPPORTED", std::string("the device ") + type() + " has no collectives of its own; use Gloo's");
  }
  // How many CPU threads an op may use; a GPU has nothing to set.
  virtual void set_threads(int) {}
};

}  // namespace openalpaca
