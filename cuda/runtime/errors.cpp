// Maps CUDA's error codes to the project's errors.
#include <string>

#include "core/device.h"
#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {
namespace {

// Errors after which CUDA rejects all further work of this process.
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
  cudaGetLastError();  // clear the error: it is reported here and must not fail the next call
  const std::string message =
      std::string(what) + ": " + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  if (is_lost(status)) {
    throw Error("DEVICE_LOST", message +
                                   "; CUDA accepts no more work from this process: restart it, from the last "
                                   "checkpoint if it was training. If the error recurs, check dmesg and nvidia-smi for "
                                   "hardware errors");
  }
  if (status == cudaErrorMemoryAllocation) throw Error("OUT_OF_MEMORY", message);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion) {
    throw Error("UNSUPPORTED_CHIP", message + "; this build has no kernels for the GPU");
  }
  throw Error("CUDA_ERROR", message);
}

}  // namespace openalpaca::cuda
