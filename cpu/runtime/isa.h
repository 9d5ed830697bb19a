// One source, several instruction sets. Every kernel file of cpu/ is compiled once per entry of OPENALPACA_ISAS, with
// that set's compiler flags and with OPENALPACA_ISA as its namespace; cpu/runtime/dispatch.cpp selects one kernel table
// when the device is created. Kernel files include nothing from the standard library that the linker could share
// between sets: templates and inline functions have one definition per program, which might be one that the processor
// cannot run.
#pragma once

#include "core/ops.h"

namespace openalpaca::cpu {

// The kernels of one instruction set, one function per op. A kernel runs on the stream's worker thread, may use OpenMP,
// and reports invalid data by throwing openalpaca::Error through `fail` in errors.h.
struct Kernels {
  const char* isa;
#define OPENALPACA_POINTER(Args, function) void (*function)(const Args&);
  OPENALPACA_OPS(OPENALPACA_POINTER)
#undef OPENALPACA_POINTER
};

const Kernels& choose_kernels();

}  // namespace openalpaca::cpu

#ifdef OPENALPACA_ISA
namespace openalpaca::cpu::OPENALPACA_ISA {
#define OPENALPACA_KERNEL(Args, function) void function(const Args&);
OPENALPACA_OPS(OPENALPACA_KERNEL)
#undef OPENALPACA_KERNEL
}  // namespace openalpaca::cpu::OPENALPACA_ISA
#endif
