// Maps a tensor's dtype to the element type that a kernel is instantiated for.
#pragma once

#include "core/tensor.h"
#include "cpu/ops/vec.h"

namespace openalpaca::cpu::OPENALPACA_ISA {

// Calls f<float>() or f<bf16>(); f is a lambda with a template parameter: [&]<class T>() { ... }.
template <class F>
inline void dispatch(DType dtype, F&& f) {
  if (dtype == DType::bfloat16) {
    f.template operator()<bf16>();
  } else {
    f.template operator()<float>();
  }
}

}  // namespace openalpaca::cpu::OPENALPACA_ISA
