// Types shared by all layers: dtypes, device memory, and typed views of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace openalpaca {

enum class DType : uint8_t { float32, bfloat16, float16, int32 };

constexpr size_t size_of(DType dtype) { return dtype == DType::float32 || dtype == DType::int32 ? 4 : 2; }

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float16:
      return "float16";
    case DType::int32:
      return "int32";
  }
  return "?";
}

// A block of device memory. Views share it, and the last one frees it, so a queued op keeps its operands alive even
// after their owner has been disposed of.
class Storage {
 public:
  Storage(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  virtual ~Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

constexpr int kMaxRank = 4;

// A contiguous, row-major view of device memory.
struct Tensor {
  std::shared_ptr<Storage> storage;
  size_t offset = 0;  // bytes from the start of the storage
  DType dtype = DType::float32;
  int rank = 0;
  int64_t shape[kMaxRank] = {};

  int64_t numel() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  size_t bytes() const { return static_cast<size_t>(numel()) * size_of(dtype); }
  explicit operator bool() const { return storage != nullptr; }

  void* raw() const { return storage ? static_cast<char*>(storage->data()) + offset : nullptr; }
  template <class T>
  T* data() const {
    return static_cast<T*>(raw());
  }
  std::string shape_string() const {
    std::string text = "[";
    for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
  }
};

}  // namespace openalpaca
