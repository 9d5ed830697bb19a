// The only function of libopenalpaca_emulated.so that the addon calls.
#include "cuda/runtime/device.h"

// A new std::shared_ptr<openalpaca::Device>, which the caller deletes. Throws openalpaca::Error.
extern "C" __attribute__((visibility("default"))) void* openalpaca_open_emulated() {
  return new std::shared_ptr<openalpaca::Device>(openalpaca::cuda::open_device(0));
}
