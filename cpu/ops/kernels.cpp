// The kernel table of one instruction set; compiled once per set.
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

#define OPENALPACA_STRING2(x) #x
#define OPENALPACA_STRING(x) OPENALPACA_STRING2(x)

extern const Kernels kernels;
const Kernels kernels = {OPENALPACA_STRING(OPENALPACA_ISA),
#define OPENALPACA_ENTRY(Args, function) function,
                         OPENALPACA_OPS(OPENALPACA_ENTRY)
#undef OPENALPACA_ENTRY
};

}  // namespace openalpaca::cpu::OPENALPACA_ISA
