// Selects the fastest kernels that this processor supports. OPENALPACA_CPU_ISA=baseline|avx2|avx512_bf16 overrides.
#include <cstdlib>
#include <cstring>

#include "core/device.h"
#include "cpu/runtime/isa.h"

namespace openalpaca::cpu {

namespace baseline {
extern const Kernels kernels;
}
#ifdef OPENALPACA_X86
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
#endif

const Kernels& choose_kernels() {
  struct Candidate {
    const Kernels* kernels;
    bool supported;
  };
  const Candidate candidates[] = {
#ifdef OPENALPACA_X86
      {&avx512_bf16::kernels, __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                                  __builtin_cpu_supports("avx512bf16")},
      {&avx2::kernels, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {&baseline::kernels, __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt")},
#else
      {&baseline::kernels, true},
#endif
  };
  const char* wanted = std::getenv("OPENALPACA_CPU_ISA");
  std::string known;
  for (const Candidate& candidate : candidates) {
    if (!candidate.supported) continue;
    if (!wanted || std::strcmp(wanted, candidate.kernels->isa) == 0) return *candidate.kernels;
    known += std::string(known.empty() ? "" : ", ") + candidate.kernels->isa;
  }
  if (known.empty()) {
    throw Error("UNSUPPORTED_ISA", "this processor has no SSE4.2: use one of Intel since 2008, or of AMD since 2011");
  }
  throw Error("UNSUPPORTED_ISA", std::string("OPENALPACA_CPU_ISA=") + wanted + ": this processor can run " + known);
}

}  // namespace openalpaca::cpu
