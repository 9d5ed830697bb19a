// Opens a device by its type: "cpu", "cuda" or "cuda:1", and for the tests "emulated".
#pragma once

#include <memory>
#include <string>

#include "core/device.h"

namespace openalpaca::binding {

// Throws Error with a code that tells why there is none.
std::shared_ptr<Device> open_device(const std::string& type);

// How many of a type this process sees. Throws as open_device does; takes no memory of a GPU.
int count_devices(const std::string& type);

}  // namespace openalpaca::binding
