// The state that a CUDA device shares with its streams, and the classes that they use.
#pragma once

#include <cuda_runtime.h>

#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#include "core/device.h"
#include "cuda/runtime/allocator.h"
#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {

struct Context {
  int ordinal = 0;
  Chip chip;
  std::shared_ptr<Allocator> device_memory, host_memory;
  std::function<void()> reclaim;  // waits for enqueued work and releases its memory

  std::shared_ptr<Storage> allocate(size_t bytes) const { return device_memory->allocate(bytes, reclaim); }
  void activate(const char* what) const { check(cudaSetDevice(ordinal), what); }
};

class CudaEvent : public Event {
 public:
  explicit CudaEvent(unsigned flags);
  ~CudaEvent() override;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// The first error between two notifies that host threads, rather than CUDA, have found in a stream's work.
class HostErrors {
 public:
  void add(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!first_) first_ = std::move(error);
  }
  std::exception_ptr first() const {
    const std::lock_guard lock(mutex_);
    return first_;
  }

 private:
  mutable std::mutex mutex_;
  std::exception_ptr first_;
};

}  // namespace openalpaca::cuda
