#include <cuda_runtime.h>
#include <dlfcn.h>

#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace {

using Work = std::function<void()>;

std::mutex failures;
std::string last_failure;  // the text of cudaGetErrorString for cudaErrorLaunchFailure
thread_local cudaError_t last_error = cudaSuccess;

cudaError_t note(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

}  // namespace

// cudaEventRecord numbers its calls; a wait is for the number that was current when it was made.
struct EventState {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t recorded = 0, completed = 0;
  cudaError_t status = cudaSuccess;  // the stream's status at the last completed record

  uint64_t next() {
    const std::lock_guard lock(mutex);
    return ++recorded;
  }
  uint64_t last() {
    const std::lock_guard lock(mutex);
    return recorded;
  }
  void complete(uint64_t number, cudaError_t result) {
    const std::lock_guard lock(mutex);
    completed = std::max(completed, number);
    status = result;
    changed.notify_all();
  }
  cudaError_t wait_for(uint64_t number) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return completed >= number; });
    return status;
  }
};
// Queued work shares the state, so that the event may be destroyed at any time.
struct EmulatedEvent {
  bool waited_for = false;  // by the host
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

struct EmulatedGraph {
  std::vector<Work> work;
};

struct EmulatedStream {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Work> queue;
  bool stopping = false;
  std::unique_ptr<EmulatedGraph> capture;
  std::atomic<cudaError_t> status = cudaSuccess;
  std::thread thread{[this] { loop(); }};

  ~EmulatedStream() {
    {
      const std::lock_guard lock(mutex);
      stopping = true;
    }
    changed.notify_one();
    thread.join();
  }
  void push(Work work) {
    {
      const std::lock_guard lock(mutex);
      queue.push_back(std::move(work));
    }
    changed.notify_one();
  }
  // Skipped once the stream has failed.
  void execute(const Work& work) {
    if (status != cudaSuccess) return;
    std::string text;
    try {
      work();
      return;
    } catch (const openalpaca::emulator::KernelError& error) {
      text = error.text;
    } catch (const std::exception& error) {
      text = error.what();
    }
    {
      const std::lock_guard lock(failures);
      last_failure = text;
    }
    status = cudaErrorLaunchFailure;
  }
  void loop() {
    for (;;) {
      Work work;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return stopping || !queue.empty(); });
        if (queue.empty()) return;
        work = std::move(queue.front());
        queue.pop_front();
      }
      work();
    }
  }
};

namespace openalpaca::emulator {

cudaError_t enqueue(cudaStream_t stream, Work work) {
  if (stream == nullptr) return note(cudaErrorInvalidValue);  // the project uses only its own streams
  if (stream->capture) {
    stream->capture->work.push_back(std::move(work));
    return cudaSuccess;
  }
  stream->push([stream, work = std::move(work)] { stream->execute(work); });
  return cudaSuccess;
}

namespace {

struct Chip {
  int capability = 80;
  int shared_per_block = 163 << 10, shared_per_multiprocessor = 164 << 10;
  // OPENALPACA_EMULATOR_CHIP=86 applies the limits of that compute capability.
  Chip() {
    if (const char* text = std::getenv("OPENALPACA_EMULATOR_CHIP")) capability = std::atoi(text);
    if (capability >= 90) {
      shared_per_block = 227 << 10;
      shared_per_multiprocessor = 228 << 10;
    } else if (capability > 80) {
      shared_per_block = 99 << 10;
      shared_per_multiprocessor = 100 << 10;
    }
  }
};
const Chip& chip() {
  static const Chip chip;
  return chip;
}

std::mutex attributes;
std::map<const void*, size_t> shared_limits;  // set by cudaFuncSetAttribute

}  // namespace

cudaError_t launch(const Launch& launch, cudaStream_t stream, Work body) {
  const dim3 grid = launch.grid, block = launch.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  size_t limit = 48 << 10;
  {
    const std::lock_guard lock(attributes);
    if (const auto found = shared_limits.find(launch.kernel); found != shared_limits.end()) {
      limit = std::max(limit, found->second);
    }
  }
  if (threads == 0 || threads > kMaxThreads || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return note(cudaErrorInvalidConfiguration);
  }
  if (launch.shared_bytes > limit) return note(cudaErrorInvalidValue);
  return enqueue(stream, [launch, body = std::move(body)] { run(launch, body); });
}

}  // namespace openalpaca::emulator

namespace emulator = openalpaca::emulator;

// ---- device ---------------------------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return note(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device != 0) return note(cudaErrorInvalidDevice);
  const emulator::Chip& chip = emulator::chip();
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated GPU");
  const char* gpu = std::getenv("OPENALPACA_EMULATOR_GPU");
  properties->uuid.bytes[0] = static_cast<char>(gpu ? std::atoi(gpu) : 0);
  size_t free;
  cudaMemGetInfo(&free, &properties->totalGlobalMem);
  properties->sharedMemPerBlockOptin = chip.shared_per_block;
  properties->sharedMemPerMultiprocessor = chip.shared_per_multiprocessor;
  properties->major = chip.capability / 10;
  properties->minor = chip.capability % 10;
  properties->multiProcessorCount = 4;  // few, so that small sizes reach the code paths of a full chip
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp properties;
  const cudaError_t status = cudaGetDeviceProperties(&properties, device);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = properties.multiProcessorCount;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = properties.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = properties.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(properties.sharedMemPerBlockOptin);
      break;
  }
  return status;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) { return cudaDriverGetVersion(version); }
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute, int value) {
  if (value > emulator::chip().shared_per_block) return note(cudaErrorInvalidValue);
  const std::lock_guard lock(emulator::attributes);
  emulator::shared_limits[function] = static_cast<size_t>(value);
  return cudaSuccess;
}

// ---- errors ---------------------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    default:
      return "an error that the emulator does not implement";
  }
}
const char* cudaGetErrorString(cudaError_t status) {
  if (status != cudaErrorLaunchFailure) return cudaGetErrorName(status);
  static thread_local std::string text;
  const std::lock_guard lock(failures);
  text = last_failure;
  return text.c_str();
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- memory ---------------------------------------------------------------------------------------------------------

namespace {

std::mutex allocations;
std::map<void*, size_t> allocated;
size_t in_use = 0;

size_t capacity() {
  static const size_t bytes = [] {
    const char* text = std::getenv("OPENALPACA_EMULATOR_MEMORY");
    return (text ? std::strtoull(text, nullptr, 10) : 4096) << 20;
  }();
  return bytes;
}

}  // namespace

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard lock(allocations);
  *total = capacity();
  *free = capacity() - in_use;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** memory, size_t bytes) {
  constexpr size_t kAlignment = 512;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const std::lock_guard lock(allocations);
  if (rounded < bytes || in_use + rounded > capacity()) return note(cudaErrorMemoryAllocation);
  *memory = std::aligned_alloc(kAlignment, std::max(rounded, kAlignment));
  if (*memory == nullptr) return note(cudaErrorMemoryAllocation);
  std::memset(*memory, 0xff, rounded);
  allocated[*memory] = rounded;
  in_use += rounded;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  if (memory == nullptr) return cudaSuccess;
  const std::lock_guard lock(allocations);
  const auto found = allocated.find(memory);
  if (found == allocated.end()) return note(cudaErrorInvalidValue);
  in_use -= found->second;
  allocated.erase(found);
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  *memory = std::malloc(std::max<size_t>(bytes, 1));
  return *memory ? cudaSuccess : note(cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** memory, size_t bytes, unsigned) { return cudaMallocHost(memory, bytes); }
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return emulator::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return emulator::enqueue(stream, [=] { std::memset(to, value, bytes); });
}

// ---- streams and events ---------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;  // finishes the queued work first
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  EmulatedEvent event{true};
  cudaEventRecord(&event, stream);
  return cudaEventSynchronize(&event);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (stream->status != cudaSuccess) return note(stream->status);
  const std::lock_guard lock(stream->mutex);
  return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new EmulatedEvent{(flags & cudaEventBlockingSync) != 0};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
// Events work even on a failed stream: others may be waiting for them.
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  stream->push([state = event->state, stream, tell = event->waited_for, number = event->state->next()] {
    state->complete(number, tell ? stream->status.exchange(cudaSuccess) : stream->status.load());
  });
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  stream->push([state = event->state, number = event->state->last()] { state->wait_for(number); });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard lock(event->state->mutex);
  if (event->state->completed < event->state->recorded) return cudaErrorNotReady;
  return note(event->state->status);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) { return note(event->state->wait_for(event->state->last())); }

namespace {

// Runs functions in the order in which streams reach them. It is never destroyed: streams may outlive main.
class HostThread {
 public:
  static void call(cudaHostFn_t function, void* data) {
    static HostThread& thread = *new HostThread;
    std::packaged_task<void()> task([=] { function(data); });
    std::future<void> done = task.get_future();
    {
      const std::lock_guard lock(thread.mutex_);
      thread.queue_.push_back(std::move(task));
    }
    thread.changed_.notify_one();
    done.get();
  }

 private:
  HostThread() {
    std::thread([this] {
      for (;;) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return !queue_.empty(); });
        std::packaged_task<void()> task = std::move(queue_.front());
        queue_.pop_front();
        lock.unlock();
        task();
      }
    }).detach();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::packaged_task<void()>> queue_;
};

// CUresult cuStreamWaitValue32(…, CU_STREAM_WAIT_VALUE_GEQ).
int stream_wait_value(cudaStream_t stream, unsigned long long address, uint32_t value, unsigned) {
  auto& flag = *reinterpret_cast<uint32_t*>(address);
  return emulator::enqueue(stream, [&flag, value] {
    while (static_cast<int32_t>(std::atomic_ref(flag).load(std::memory_order_acquire) - value) < 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  });
}

}  // namespace

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return emulator::enqueue(stream, [=] { HostThread::call(function, data); });
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult*) {
  if (std::string(symbol) != "cuStreamWaitValue32") return note(cudaErrorInvalidValue);
  *function = reinterpret_cast<void*>(stream_wait_value);
  return cudaSuccess;
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->capture) return note(cudaErrorInvalidValue);
  stream->capture = std::make_unique<EmulatedGraph>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->capture) return note(cudaErrorInvalidValue);
  *graph = stream->capture.release();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  if (stream->capture) return note(cudaErrorStreamCaptureUnsupported);
  stream->push([stream, executable] {
    for (const Work& work : executable->work) stream->execute(work);
  });
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
