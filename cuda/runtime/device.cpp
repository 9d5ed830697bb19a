#include "cuda/runtime/device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "collectives/nccl.h"
#include "cuda/runtime/allocator.h"
#include "cuda/runtime/cublaslt.h"
#include "cuda/runtime/stream.h"

namespace openalpaca::cuda {
namespace {

#if defined(OPENALPACA_EMULATOR)
constexpr const char* kType = "emulated";
#else
constexpr const char* kType = "cuda";
#endif
constexpr int kOldestChip = 80;  // bfloat16 in the tensor cores, and cp.async, came with Ampere

std::string version_text(int version) {  // 13010 → 13.1
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string found_nccl() {
#if defined(OPENALPACA_WITH_NCCL)
  try {
    return nccl_version();
  } catch (const Error&) {
    return "not found";
  }
#else
  return "not in this build";
#endif
}

std::string hexadecimal(const std::string& bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const unsigned char byte : bytes) text += {kDigits[byte >> 4], kDigits[byte & 15]};
  return text;
}

}  // namespace

int count_devices() {
  int driver = 0, runtime = 0, count = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    cudaGetLastError();
    throw Error("NO_CUDA_DRIVER",
                "no NVIDIA driver was found: libcuda.so.1 cannot be loaded. If there is an NVIDIA GPU, install its "
                "driver; in a container, start it with access to the GPU (docker run --gpus all)");
  }
  check(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    cudaGetLastError();
    throw Error("CUDA_DRIVER_TOO_OLD", "the NVIDIA driver supports CUDA " + version_text(driver) +
                                           ", and this build needs CUDA " + version_text(runtime / 1000 * 1000) +
                                           ": install a newer driver, or build with an older CUDA");
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    cudaGetLastError();
    throw Error("NO_CUDA_DEVICE",
                "the NVIDIA driver shows no GPU to this process: check nvidia-smi, and "
                "CUDA_VISIBLE_DEVICES if it is set");
  }
  check(status, "cudaGetDeviceCount");
  return count;
}

namespace {

class CudaDevice : public Device {
 public:
  explicit CudaDevice(int ordinal) : context_(std::make_shared<Context>()) {
    const int count = count_devices();
    if (ordinal < 0 || ordinal >= count) {
      throw Error("INVALID_DEVICE", "there is no GPU " + std::to_string(ordinal) + ": this process sees " +
                                        std::to_string(count) + ", numbered from 0");
    }
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, ordinal), "cudaGetDeviceProperties");
    name_ = properties.name;
    id_.assign(properties.uuid.bytes, sizeof properties.uuid.bytes);
    total_memory_ = properties.totalGlobalMem;
    context_->ordinal = ordinal;
    context_->chip = {10 * properties.major + properties.minor, properties.multiProcessorCount,
                      static_cast<int>(properties.sharedMemPerBlockOptin),
                      static_cast<int>(properties.sharedMemPerMultiprocessor)};
    if (context_->chip.compute_capability < kOldestChip) {
      throw Error("UNSUPPORTED_CHIP", name_ + " has compute capability " + std::to_string(properties.major) + "." +
                                          std::to_string(properties.minor) +
                                          "; the kernels need 8.0 or newer (A100, RTX 30, or later)");
    }
    open_cublaslt();
    context_->activate("cudaSetDevice");
    context_->device_memory = std::make_shared<Allocator>(Allocator::Kind::device, ordinal);
    context_->host_memory = std::make_shared<Allocator>(Allocator::Kind::host, ordinal);
    context_->reclaim = [this] { reclaim(); };
  }
  // Storages and streams may outlive the device and must not call back into it.
  ~CudaDevice() override { context_->reclaim = {}; }

  const char* type() const override { return kType; }

  DeviceProperties properties() const override {
    DeviceProperties properties;
    properties.name = name_;
    properties.isa = "sm_" + std::to_string(context_->chip.compute_capability);
    properties.units = context_->chip.multiprocessors;
    properties.fast_bfloat16 = true;
    properties.id = hexadecimal(id_);
    properties.total_memory = total_memory_;
    size_t free = 0, total = 0;
    context_->activate("properties");
    check(cudaMemGetInfo(&free, &total), "properties");
    properties.free_memory = free + context_->device_memory->kept();
    return properties;
  }

  LibraryVersions libraries() const override {
    int driver = 0, runtime = 0;
    check(cudaDriverGetVersion(&driver), "libraries");
    check(cudaRuntimeGetVersion(&runtime), "libraries");
    return {{"CUDA of the driver", version_text(driver)},
            {"CUDA runtime", version_text(runtime)},
            {"cuBLASLt", open_cublaslt()},
            {"NCCL", found_nccl()}};
  }

  std::shared_ptr<Storage> allocate(size_t bytes) override { return context_->allocate(bytes); }
  std::shared_ptr<Communicator> make_communicator(int rank, int size, std::chrono::milliseconds timeout) override {
#if defined(OPENALPACA_WITH_NCCL)
    return make_nccl(context_, rank, size, timeout);
#else
    throw Error("UNSUPPORTED",
                "NCCL is not in this build: nccl.h was not found at build time. Run node scripts/fetch-cuda.mjs "
                "and build again; or use --backend gloo, which is slower");
#endif
  }
  std::shared_ptr<Event> make_event() override {
    context_->activate("event");
    return std::make_shared<CudaEvent>(cudaEventDisableTiming);
  }
  std::shared_ptr<Stream> make_stream() override {
    auto stream = std::make_shared<CudaStream>(context_);
    std::erase_if(streams_, [](const auto& weak) { return weak.expired(); });
    streams_.push_back(stream);
    return stream;
  }

 private:
  void reclaim() {
    for (const auto& weak : streams_) {
      if (const auto stream = weak.lock()) stream->reclaim();
    }
  }

  const std::shared_ptr<Context> context_;
  std::string name_, id_;
  size_t total_memory_ = 0;
  std::vector<std::weak_ptr<CudaStream>> streams_;
};

}  // namespace

std::shared_ptr<Device> open_device(int ordinal) { return std::make_shared<CudaDevice>(ordinal); }

}  // namespace openalpaca::cuda
