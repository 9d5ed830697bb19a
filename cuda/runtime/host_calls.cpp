#include "cuda/runtime/host_calls.h"

#include <atomic>
#include <string>
#include <utility>

namespace openalpaca::cuda {
namespace {

// The driver's cuStreamWaitValue32, which has no runtime API equivalent. The stream waits until *address has reached
// `value`, modulo 2³².
using WaitValue = int (*)(cudaStream_t, unsigned long long address, uint32_t value, unsigned flags);
constexpr unsigned kReached = 0;  // CU_STREAM_WAIT_VALUE_GEQ

[[noreturn]] void refuse(const char* name, const std::string& why) {
  throw Error("UNSUPPORTED", std::string(name) + ": this NVIDIA driver cannot let a stream wait for the host (" + why +
                                 "), which Gloo needs on a GPU; use NCCL (--backend nccl)");
}

WaitValue find_wait_value(const char* name) {
  constexpr const char* kSymbol = "cuStreamWaitValue32";
  void* address = nullptr;
#if CUDART_VERSION >= 12050
  constexpr unsigned kSince = 12000;  // the CUDA version that introduced this form
  const cudaError_t status = cudaGetDriverEntryPointByVersion(kSymbol, &address, kSince, cudaEnableDefault, nullptr);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(kSymbol, &address, cudaEnableDefault, nullptr);
#endif
  if (status != cudaSuccess || address == nullptr) {
    cudaGetLastError();
    refuse(name, std::string(kSymbol) + " was not found");
  }
  return reinterpret_cast<WaitValue>(address);
}

void wait_for_flag(cudaStream_t stream, const Storage& flag, uint32_t value, const char* name) {
  static const WaitValue wait = find_wait_value(name);
  void* address = nullptr;
  check(cudaHostGetDevicePointer(&address, flag.data(), 0), name);
  const int status = wait(stream, reinterpret_cast<uintptr_t>(address), value, kReached);
  if (status != 0) refuse(name, "error " + std::to_string(status));
}

}  // namespace

HostCalls::HostCalls(std::shared_ptr<const Context> context)
    : context_(std::move(context)), flag_(context_->host_memory->allocate(sizeof(uint32_t))) {
  *static_cast<uint32_t*>(flag_->data()) = 0;
  thread_ = std::thread([this] { loop(); });
}

HostCalls::~HostCalls() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void HostCalls::enqueue(cudaStream_t stream, const char* name, std::function<void()> function,
                        std::shared_ptr<HostErrors> errors) {
  auto begin = std::make_shared<CudaEvent>(cudaEventBlockingSync | cudaEventDisableTiming);
  check(cudaEventRecord(begin->get(), stream), name);
  wait_for_flag(stream, *flag_, enqueued_ + 1, name);
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back({name, std::move(function), std::move(errors), std::move(begin), ++enqueued_});
  }
  changed_.notify_one();
}

void HostCalls::run(const Call& call) {
  try {
    check(cudaEventSynchronize(call.begin->get()), call.name);
    if (!call.errors->first()) call.function();
  } catch (const Error&) {
    call.errors->add(std::current_exception());
  } catch (const std::exception& error) {
    call.errors->add(std::make_exception_ptr(Error("OP_FAILED", std::string(call.name) + ": " + error.what())));
  }
}

void HostCalls::loop() {
  cudaSetDevice(context_->ordinal);  // a per-thread setting; if it fails, so do the calls below
  for (;;) {
    Call call;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      call = std::move(queue_.front());
      queue_.pop_front();
    }
    run(call);
    // Publishes the function's writes.
    std::atomic_ref(*static_cast<uint32_t*>(flag_->data())).store(call.number, std::memory_order_release);
  }
}

}  // namespace openalpaca::cuda
