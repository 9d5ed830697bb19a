// Runs a launcher function without a device, for a small program that tries one op: see README.md.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <stdexcept>
#include <vector>

#include "core/device.h"
#include "cuda/kernel.cuh"

namespace openalpaca::cuda {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw Error("CUDA_ERROR", std::string(what) + ": " + cudaGetErrorString(status));
}

class Harness {
 public:
  Harness() {
    cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    cudaDeviceProp properties;
    cudaGetDeviceProperties(&properties, 0);
    chip_ = {10 * properties.major + properties.minor, properties.multiProcessorCount,
             static_cast<int>(properties.sharedMemPerBlockOptin),
             static_cast<int>(properties.sharedMemPerMultiprocessor)};
  }

  // Uninitialized (NaN), or with the given elements.
  Tensor tensor(DType dtype, std::vector<int64_t> shape) {
    Tensor tensor;
    tensor.dtype = dtype;
    for (int64_t n : shape) tensor.shape[tensor.rank++] = n;
    void* memory = nullptr;
    check(cudaMalloc(&memory, tensor.bytes()), "tensor");
    tensor.storage = std::make_shared<Storage>(memory, tensor.bytes());
    return tensor;
  }
  Tensor tensor(DType dtype, std::vector<int64_t> shape, const std::vector<float>& values) {
    Tensor made = tensor(dtype, shape);
    for (int64_t i = 0; i < made.numel(); ++i) {
      if (dtype == DType::float32) made.data<float>()[i] = values[i];
      if (dtype == DType::bfloat16) made.data<bf16>()[i] = __float2bfloat16_rn(values[i]);
      if (dtype == DType::int32) made.data<int32_t>()[i] = static_cast<int32_t>(values[i]);
    }
    return made;
  }
  std::vector<float> values(const Tensor& tensor) {
    std::vector<float> values(tensor.numel());
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      if (tensor.dtype == DType::float32) values[i] = tensor.data<float>()[i];
      if (tensor.dtype == DType::bfloat16) values[i] = __bfloat162float(tensor.data<bf16>()[i]);
      if (tensor.dtype == DType::int32) values[i] = static_cast<float>(tensor.data<int32_t>()[i]);
    }
    return values;
  }

  Launcher on(const char* op) {
    return {op, 1, stream_, chip_, &fault_, [this](size_t bytes) -> void* {
              if (bytes + 256 > workspace_.size()) workspace_.resize(bytes + 256);
              return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(workspace_.data()) + 255) / 256 * 256);
            }};
  }
  // Throws errors that the emulator found or a kernel reported.
  void synchronize() {
    check(cudaStreamSynchronize(stream_), "synchronize");
    if (fault_.op == 0) return;
    const uint64_t where = ~fault_.where;
    fault_ = Fault();
    throw std::runtime_error("fault at index " + std::to_string(where >> 33) + ": rule " +
                             std::to_string(where >> 32 & 1) + ", value " +
                             std::to_string(static_cast<int32_t>(where)));
  }

 private:
  cudaStream_t stream_ = nullptr;
  Chip chip_;
  Fault fault_;
  std::vector<unsigned char> workspace_;
};

}  // namespace openalpaca::cuda
