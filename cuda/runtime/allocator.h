// Memory that is kept when it is given back, because asking CUDA for it takes long and makes the GPU wait.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/tensor.h"

namespace openalpaca::cuda {

// Of device memory, or of page-locked host memory. Sizes are rounded up to one of eight steps between powers of two,
// and from 16 MiB on to 2 MiB; a block is only given to a request of its own step, so blocks need never be split or
// joined. Blocks of up to 1 MiB are cut from slabs. Any thread may call.
//
// A block is free when its Storage has gone. That it is then no longer used by the GPU is the streams' business: they
// hold the storages of what they have enqueued until it has passed (stream.h).
class Allocator : public std::enable_shared_from_this<Allocator> {
 public:
  enum class Kind { device, host };
  Allocator(Kind kind, int ordinal) : kind_(kind), ordinal_(ordinal) {}
  ~Allocator();

  // Uninitialised, aligned to 256 bytes. If CUDA has no more, frees what is kept, calls `reclaim` and tries again.
  // Throws Error("OUT_OF_MEMORY").
  std::shared_ptr<Storage> allocate(size_t bytes, const std::function<void()>& reclaim = {});

  // Bytes that are kept without being used.
  size_t kept() const;

 private:
  friend class Block;
  void* take(size_t size);
  void* raw_allocate(size_t bytes);
  void raw_free(void* memory);
  void give_back(void* memory, size_t size);
  void free_kept();
  [[noreturn]] void fail(size_t bytes) const;

  const Kind kind_;
  const int ordinal_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;  // by size
  std::vector<void*> slabs_;
  char* slab_ = nullptr;  // what is left of the last one
  size_t slab_left_ = 0;
  size_t used_ = 0, kept_ = 0;  // bytes, of large blocks alone
};

}  // namespace openalpaca::cuda
