#include "cpu/runtime/device.h"

#include <omp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <fstream>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "collectives/gloo.h"
#include "cpu/runtime/isa.h"
#include "cpu/runtime/onednn.h"

namespace openalpaca::cpu {
namespace {

constexpr size_t kHugePage = 2 << 20;

[[noreturn]] void fail_out_of_memory(size_t bytes) {
  throw Error("OUT_OF_MEMORY", "the CPU cannot allocate " + std::to_string(bytes >> 20) +
                                   " MiB: use a smaller model, batch or max_length");
}

class SmallStorage : public Storage {
 public:
  static std::shared_ptr<Storage> make(size_t bytes) {
    void* data = nullptr;
    if (posix_memalign(&data, 64, std::max<size_t>(bytes, 64)) != 0) fail_out_of_memory(bytes);
    return std::make_shared<SmallStorage>(data, bytes);
  }
  using Storage::Storage;
  ~SmallStorage() override { free(data()); }
};

// Uses 2 MiB pages if the kernel provides them: a matrix product reads gigabytes, and with 4 KiB pages it spends its
// time in page walks. Mapped rather than allocated from the heap, so that freed memory returns to the system.
class LargeStorage : public Storage {
 public:
  static std::shared_ptr<Storage> make(size_t bytes) {
    const size_t mapped = round_up(bytes);
    auto* start = static_cast<char*>(
        mmap(nullptr, mapped + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (start == MAP_FAILED) fail_out_of_memory(bytes);
    auto* data = reinterpret_cast<char*>(round_up(reinterpret_cast<size_t>(start)));
    if (data > start) munmap(start, data - start);
    munmap(data + mapped, start + kHugePage - data);
    madvise(data, mapped, MADV_HUGEPAGE);
    return std::make_shared<LargeStorage>(data, bytes);
  }
  using Storage::Storage;
  ~LargeStorage() override { munmap(data(), round_up(bytes())); }

 private:
  static size_t round_up(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }
};

// record() numbers its calls; wait() waits for the number that was current when it was called.
class CpuEvent : public Event {
 public:
  uint64_t next() {
    std::lock_guard lock(mutex_);
    return ++recorded_;
  }
  uint64_t last() {
    std::lock_guard lock(mutex_);
    return recorded_;
  }
  void complete(uint64_t generation) {
    std::lock_guard lock(mutex_);
    completed_ = std::max(completed_, generation);
    changed_.notify_all();
  }
  void wait_for(uint64_t generation) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return completed_ >= generation; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t recorded_ = 0, completed_ = 0;
};

struct Work {
  const char* name;
  std::function<void()> run;
  bool always = false;  // runs even on a poisoned stream
};

class CpuGraph : public Graph {
 public:
  std::vector<Work> work;
};

class CpuStream : public Stream {
 public:
  CpuStream(const Kernels& kernels, std::shared_ptr<std::atomic<int>> threads)
      : kernels_(kernels), threads_(std::move(threads)), thread_([this] { loop(); }) {}

  // Finishes the queued work first: callers may be waiting for it.
  ~CpuStream() override { stop(); }

  void abandon() override {
    {
      std::lock_guard lock(mutex_);
      queue_.clear();
    }
    stop();
  }

#define OPENALPACA_ENQUEUE(Args, function)                                       \
  void function(const Args& args) override {                                     \
    enqueue({Args::name, [args, kernel = kernels_.function] { kernel(args); }}); \
  }
  OPENALPACA_OPS(OPENALPACA_ENQUEUE)
#undef OPENALPACA_ENQUEUE

  void write(const Tensor& destination, const void* source) override {
    enqueue({"write", [=] { std::memcpy(destination.raw(), source, destination.bytes()); }});
  }
  void write(const Tensor& destination, std::shared_ptr<std::vector<uint8_t>> source) override {
    enqueue({"write", [=] { std::memcpy(destination.raw(), source->data(), destination.bytes()); }});
  }
  void read(void* destination, const Tensor& source) override {
    enqueue({"read", [=] { std::memcpy(destination, source.raw(), source.bytes()); }});
  }

  void call(const char* name, const std::vector<HostOperand>& operands, HostFunction function) override {
    refuse_capture(name);
    std::vector<Tensor> tensors;
    for (const HostOperand& operand : operands) tensors.push_back(operand.tensor);
    enqueue({name, [tensors, function = std::move(function)] { function(tensors); }});
  }

  // Events work even on a poisoned stream: another stream may be waiting for them.
  void record(const std::shared_ptr<Event>& event) override {
    auto cpu_event = std::static_pointer_cast<CpuEvent>(event);
    refuse_capture("record an event");
    enqueue({"record", [cpu_event, generation = cpu_event->next()] { cpu_event->complete(generation); }, true});
  }
  void wait(const std::shared_ptr<Event>& event) override {
    auto cpu_event = std::static_pointer_cast<CpuEvent>(event);
    refuse_capture("wait for an event");
    enqueue({"wait", [cpu_event, generation = cpu_event->last()] { cpu_event->wait_for(generation); }, true});
  }

  void begin_capture() override {
    refuse_capture("begin another capture");
    capture_ = std::make_shared<CpuGraph>();
  }
  std::shared_ptr<Graph> end_capture() override {
    if (!capture_) throw Error("NOT_CAPTURING", "end_capture: no capture was begun on this stream");
    return std::move(capture_);
  }
  void launch(const std::shared_ptr<Graph>& graph) override {
    refuse_capture("launch a graph");
    auto cpu_graph = std::static_pointer_cast<CpuGraph>(graph);
    enqueue({nullptr, [this, cpu_graph] {
               for (const Work& work : cpu_graph->work) execute(work);
             }});
  }

  void check_notifiable() const override { refuse_capture("synchronize"); }
  void notify(std::function<void(std::exception_ptr)> callback) override {
    check_notifiable();
    enqueue({"notify", [this, callback = std::move(callback)] { callback(std::exchange(error_, nullptr)); }, true});
  }

 private:
  void refuse_capture(const char* what) const {
    if (capture_) throw Error("CAPTURING", std::string("cannot ") + what + " while a graph is being recorded");
  }

  void enqueue(Work work) {
    if (capture_) {
      capture_->work.push_back(std::move(work));
      return;
    }
    {
      std::lock_guard lock(mutex_);
      queue_.push_back(std::move(work));
    }
    changed_.notify_one();
  }

  void stop() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) thread_.join();
  }

  // On the worker thread: keeps the first error, prefixed with the name of its op.
  void execute(const Work& work) {
    if (error_ && !work.always) return;
    if (omp_get_max_threads() != *threads_) omp_set_num_threads(*threads_);  // a per-thread setting
    try {
      work.run();
    } catch (const Error& error) {
      error_ = std::make_exception_ptr(error);
    } catch (const std::exception& error) {
      error_ = std::make_exception_ptr(
          Error("OP_FAILED", std::string(work.name ? work.name : "graph") + ": " + error.what()));
    }
  }

  void loop() {
    for (;;) {
      Work work;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
        if (queue_.empty()) return;
        work = std::move(queue_.front());
        queue_.pop_front();
      }
      execute(work);
    }
  }

  const Kernels& kernels_;
  const std::shared_ptr<std::atomic<int>> threads_;
  std::shared_ptr<CpuGraph> capture_;  // accessed only by the calling thread
  std::exception_ptr error_;           // accessed only by the worker thread
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Work> queue_;
  bool stopping_ = false;
  std::thread thread_;  // last: starts after the other members are initialized
};

std::string read_field(const char* path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) != 0) continue;
    const size_t colon = line.find(':');
    const size_t start = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

class CpuDevice : public Device {
 public:
  CpuDevice() : kernels_(choose_kernels()) {}

  const char* type() const override { return "cpu"; }

  DeviceProperties properties() const override {
    DeviceProperties properties;
    const std::string name = read_field("/proc/cpuinfo", "model name");
    properties.name = name.empty() ? "CPU" : name;
    properties.isa = kernels_.isa;
    properties.units = *threads_;
    properties.fast_bfloat16 = properties.isa == "avx512_bf16";
    properties.total_memory = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
    const std::string available = read_field("/proc/meminfo", "MemAvailable");
    properties.free_memory = available.empty() ? properties.total_memory : std::stoull(available) * 1024;
    return properties;
  }
  LibraryVersions libraries() const override { return {{"oneDNN", onednn_version()}, {"Gloo", gloo_version()}}; }

  std::shared_ptr<Storage> allocate(size_t bytes) override {
    return bytes < kHugePage ? SmallStorage::make(bytes) : LargeStorage::make(bytes);
  }
  std::shared_ptr<Stream> make_stream() override { return std::make_shared<CpuStream>(kernels_, threads_); }
  std::shared_ptr<Event> make_event() override { return std::make_shared<CpuEvent>(); }
  void set_threads(int threads) override { *threads_ = threads; }

 private:
  const Kernels& kernels_;
  const std::shared_ptr<std::atomic<int>> threads_ = std::make_shared<std::atomic<int>>(omp_get_max_threads());
};

}  // namespace

std::shared_ptr<Device> open_device() { return std::make_shared<CpuDevice>(); }

}  // namespace openalpaca::cpu
