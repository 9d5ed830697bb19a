// Opens a device by its type: "cpu", "cuda", "cuda:1", or "emulated" for tests.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"

namespace openalpaca::binding {

// Throws Error with a code for the reason if the device is unavailable.
std::shared_ptr<Device> open_device(const std::string& type);

// The number of devices of a type that this process sees. Throws as open_device does; allocates no GPU memory.
int count_devices(const std::string& type);

}  // namespace openalpaca::binding
