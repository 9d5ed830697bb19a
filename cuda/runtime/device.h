// An NVIDIA GPU as a device, by the CUDA runtime. Compiled with the emulator's headers it is the device `emulated`.
#pragma once

#include "core/device.h"

namespace openalpaca::cuda {

// The GPU of this number among those that CUDA sees (CUDA_VISIBLE_DEVICES). Throws Error with a code that tells why it
// cannot be used: NO_CUDA_DRIVER, CUDA_DRIVER_TOO_OLD, NO_CUDA_DEVICE, INVALID_DEVICE (no such number),
// UNSUPPORTED_CHIP, LIBRARY_NOT_FOUND, or what check() makes of another error.
std::shared_ptr<Device> open_device(int ordinal);

// How many GPUs this process sees, one at least. Throws as open_device does where there is none. Unlike that, it takes
// no memory of a GPU.
int count_devices();

}  // namespace openalpaca::cuda
