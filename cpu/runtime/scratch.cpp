#include "cpu/runtime/scratch.h"

#include <cstdlib>
#include <string>

#include "core/device.h"

namespace openalpaca::cpu {

Scratch::~Scratch() { std::free(data_); }

void* Scratch::reserve(size_t bytes) {
  if (bytes > bytes_) {
    std::free(data_);
    bytes_ = (bytes + 63) / 64 * 64;
    data_ = std::aligned_alloc(64, bytes_);
    if (!data_) {
      bytes_ = 0;
      throw Error("OUT_OF_MEMORY", "the CPU cannot allocate " + std::to_string(bytes) + " bytes of working memory");
    }
  }
  return data_;
}

void* scratch(size_t bytes) {
  thread_local Scratch block;
  return block.reserve(bytes);
}

}  // namespace openalpaca::cpu
