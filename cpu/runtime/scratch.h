// Working memory for kernels, which must not use the standard library's containers (cpu/runtime/isa.h).
#pragma once

#include <cstddef>

namespace openalpaca::cpu {

// A block of memory aligned to 64 bytes that grows on demand and never shrinks.
class Scratch {
 public:
  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // At least this many bytes, uninitialized, until the next call. Throws Error("OUT_OF_MEMORY").
  void* reserve(size_t bytes);

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// The calling thread's block: exclusive to a kernel on a stream's worker thread, or to one OpenMP thread within it,
// until its next call.
void* scratch(size_t bytes);

}  // namespace openalpaca::cpu
