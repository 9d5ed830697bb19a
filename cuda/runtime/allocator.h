// Caches freed memory, since allocating from CUDA is slow and stalls the GPU.
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

// For device memory or page-locked host memory. Sizes are rounded up to one of eight steps between powers of two, and
// from 16 MiB on to 2 MiB; a block only serves requests of its own step, so blocks are never split or merged. Blocks of
// up to 1 MiB are carved from slabs. Thread-safe.
//
// A block is free when its Storage is destroyed. The streams ensure that the GPU no longer uses it: they hold the
// storages of all enqueued work until it has completed (stream.h).
class Allocator : public std::enable_shared_from_this<Allocator> {
 public:
  enum class Kind { device, host };
  Allocator(Kind kind, int ordinal) : kind_(kind), ordinal_(ordinal) {}
  ~Allocator();

  // Uninitialized, aligned to 256 bytes. If CUDA has no more, frees cached blocks, calls `reclaim`, and tries again.
  // Throws Error("OUT_OF_MEMORY").
  std::shared_ptr<Storage> allocate(size_t bytes, const std::function<void()>& reclaim = {});

  // Bytes in cached, unused blocks.
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
  char* slab_ = nullptr;  // the rest of the last slab
  size_t slab_left_ = 0;
  size_t used_ = 0, kept_ = 0;  // bytes, of large blocks only
};

}  // namespace openalpaca::cuda
