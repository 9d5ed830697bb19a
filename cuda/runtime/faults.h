// Turns faults that kernels reported into errors for the user.
#pragma once

#include <exception>

#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {

// The error that the CPU throws for the same data; nullptr for no fault.
std::exception_ptr error_of(const Fault& fault);

// Enqueues a kernel that moves a fault from `from` to `to`, both in device memory, unless `to` already holds one.
void move_fault(void* to, void* from, cudaStream_t stream);

}  // namespace openalpaca::cuda
