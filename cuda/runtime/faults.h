// From what a kernel reported to what a user reads.
#pragma once

#include <exception>

#include "cuda/runtime/launcher.h"

namespace openalpaca::cuda {

// The error that the CPU throws for the same data; nullptr for no fault.
std::exception_ptr error_of(const Fault& fault);

// Enqueues: a fault in `from` is moved to `to`, both in device memory, unless there is one already.
void move_fault(void* to, void* from, cudaStream_t stream);

}  // namespace openalpaca::cuda
