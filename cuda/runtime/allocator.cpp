#include "cuda/runtime/allocator.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/device.h"
#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {
namespace {

constexpr size_t kAlignment = 256, kSlab = 2 << 20, kLargestInSlab = 1 << 20;
// The page size of CUDA's allocations.
constexpr size_t kPage = 2 << 20;

// Rounds up to the next of 1, 1 1/8, … 1 7/8 times a power of two, in units of the alignment: wastes at most an eighth.
// From 16 MiB on, where an eighth is more than a page, rounds to whole pages: such blocks are parameters and
// activations, allocated once, and a large model fills the GPU with them.
size_t round_up(size_t bytes) {
  const size_t least = std::max(bytes, kAlignment);
  size_t step = kAlignment;
  while (step * 16 <= least && step < kPage) step *= 2;
  return (least + step - 1) / step * step;
}

std::string mebibytes(size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

class Block : public Storage {
 public:
  Block(std::shared_ptr<Allocator> allocator, void* data, size_t bytes, size_t size)
      : Storage(data, bytes), allocator_(std::move(allocator)), size_(size) {}
  ~Block() override { allocator_->give_back(data(), size_); }

 private:
  const std::shared_ptr<Allocator> allocator_;
  const size_t size_;
};

Allocator::~Allocator() {
  free_kept();
  for (void* slab : slabs_) raw_free(slab);
}

std::shared_ptr<Storage> Allocator::allocate(size_t bytes, const std::function<void()>& reclaim) {
  if (bytes > size_t{1} << 60) fail(bytes);
  const size_t size = round_up(bytes);
  void* memory = take(size);
  if (memory == nullptr && reclaim) {
    reclaim();
    memory = take(size);
  }
  if (memory == nullptr) {
    free_kept();
    memory = take(size);
  }
  if (memory == nullptr) fail(bytes);
  return std::make_shared<Block>(shared_from_this(), memory, bytes, size);
}

// Returns nullptr if there is none.
void* Allocator::take(size_t size) {
  const std::lock_guard lock(mutex_);
  if (auto& blocks = free_[size]; !blocks.empty()) {
    void* memory = blocks.back();
    blocks.pop_back();
    if (size > kLargestInSlab) {
      kept_ -= size;
      used_ += size;
    }
    return memory;
  }
  if (size > kLargestInSlab) {
    void* memory = raw_allocate(size);
    if (memory) used_ += size;
    return memory;
  }
  if (slab_left_ < size) {
    void* memory = raw_allocate(kSlab);
    if (memory == nullptr) return nullptr;
    slabs_.push_back(memory);
    slab_ = static_cast<char*>(memory);
    slab_left_ = kSlab;
  }
  slab_left_ -= size;
  return std::exchange(slab_, slab_ + size);
}

void Allocator::give_back(void* memory, size_t size) {
  const std::lock_guard lock(mutex_);
  free_[size].push_back(memory);
  if (size > kLargestInSlab) {
    used_ -= size;
    kept_ += size;
  }
}

void* Allocator::raw_allocate(size_t bytes) {
  void* memory = nullptr;
  check(cudaSetDevice(ordinal_), "allocate");
  const cudaError_t status = kind_ == Kind::device ? cudaMalloc(&memory, bytes) : cudaMallocHost(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // clear the error: it is handled here
    return nullptr;
  }
  check(status, "allocate");
  return memory;
}

// Errors no longer matter: the process is ending, or the device is lost.
void Allocator::raw_free(void* memory) {
  if (cudaSetDevice(ordinal_) != cudaSuccess) return;
  if ((kind_ == Kind::device ? cudaFree(memory) : cudaFreeHost(memory)) != cudaSuccess) cudaGetLastError();
}

void Allocator::free_kept() {
  const std::lock_guard lock(mutex_);
  for (auto& [size, blocks] : free_) {
    if (size <= kLargestInSlab) continue;
    for (void* memory : blocks) raw_free(memory);
    blocks.clear();
  }
  kept_ = 0;
}

size_t Allocator::kept() const {
  const std::lock_guard lock(mutex_);
  return kept_;
}

void Allocator::fail(size_t bytes) const {
  if (kind_ == Kind::host) {
    throw Error("OUT_OF_MEMORY", "the system cannot allocate " + mebibytes(bytes) + " of page-locked memory");
  }
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "allocate");
  throw Error("OUT_OF_MEMORY", "the GPU cannot allocate " + mebibytes(bytes) + ": " + mebibytes(free) + " of its " +
                                   mebibytes(total) + " are free, and this process uses " + mebibytes(used_) +
                                   "; use a smaller model, max_tokens_per_micro_batch or max_length, or more GPUs");
}

}  // namespace openalpaca::cuda
