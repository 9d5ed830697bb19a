// The CPU as a device: memory from the system; a stream is a worker thread that executes its queue in order.
#pragma once

#include "core/device.h"

namespace openalpaca::cpu {

std::shared_ptr<Device> open_device();

}  // namespace openalpaca::cpu
