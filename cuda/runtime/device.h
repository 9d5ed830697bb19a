// An NVIDIA GPU as a device, using the CUDA runtime. Compiled with the emulator's headers, it is the device `emulated`.
#pragma once

#include "core/device.h"

namespace openalpaca::cuda {

// The GPU of this number among those visible to CUDA (CUDA_VISIBLE_DEVICES). If it cannot be used, throws Error with a
// code for the reason: NO_CUDA_DRIVER, CUDA_DRIVER_TOO_OLD, NO_CUDA_DEVICE, INVALID_DEVICE (no such number),
// UNSUPPORTED_CHIP, LIBRARY_NOT_FOUND, or the code that check() assigns to another error.
std::shared_ptr<Device> open_device(int ordinal);

// The number of GPUs that this process sees, at least one. Throws as open_device does if there is none. Unlike
// open_device, allocates no GPU memory.
int count_devices();

}  // namespace openalpaca::cuda
