// From what a kernel reported to what a user reads.
#pragma once

#include <exception>

#include "cuda/launcher.h"

namespace openalpaca::cuda {

// The error that the CPU throws for the same data; nullptr for no fault.
std::exception_ptr error_of(const Fault& fault);

}  // namespace openalpaca::cuda
