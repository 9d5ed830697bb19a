// What CUDA's error codes mean to a user.
#include <string>

#include "core/device.h"
#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {
namespace {

// Errors after which CUDA does nothing more in this process.
bool is_lost(cudaError_t status) {
  switch (status) {
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorUnknown:
      return true;
    default:
      return false;
  }
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // told here; it is not to be found by the next call as well
  const std::string message =
      std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  if (is_lost(status)) {
    throw Error("DEVICE_LOST", message +
                                   "; the GPU does nothing more for this process, so start it again, from the last "
                                   "checkpoint if it was training. If that repeats, dmesg and nvidia-smi tell of "
                                   "hardware errors");
  }
  if (status == cudaErrorMemoryAllocation) throw Error("OUT_OF_MEMORY", message);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion) {
    throw Error("UNSUPPORTED_CHIP", message + "; this build has no code for the GPU");
  }
  throw Error("CUDA_ERROR", message);
}

}  // namespace openalpaca::cuda
