#include "binding/devices.h"

#include <dlfcn.h>

#include <cstdlib>

#include "cpu/runtime/device.h"
#ifdef OPENALPACA_CUDA
#include "cuda/runtime/device.h"
#endif

namespace openalpaca::binding {
namespace {

#ifndef OPENALPACA_CUDA
[[noreturn]] void refuse_cuda() {
  throw Error("DEVICE_UNAVAILABLE", "CUDA is not in this build: when it was made, " OPENALPACA_NO_CUDA_REASON);
}
#endif

// type is "cuda" or "cuda:<number>".
std::shared_ptr<Device> open_cuda(const std::string& type) {
  int ordinal = 0;
  if (type.size() > 4) {
    const std::string number = type.substr(5);
    if (number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) {
      throw Error("INVALID_DEVICE", "device '" + type + "' must be cuda, or cuda: and the number of a GPU, as cuda:1");
    }
    ordinal = std::stoi(number);
  }
#ifdef OPENALPACA_CUDA
  return cuda::open_device(ordinal);
#else
  static_cast<void>(ordinal);
  refuse_cuda();
#endif
}

// The library that the repository's own build puts beside the addon, or the one that OPENALPACA_EMULATED_LIBRARY names.
std::shared_ptr<Device> open_emulated() {
  Dl_info addon = {};
  dladdr(reinterpret_cast<const void*>(&open_emulated), &addon);
  const std::string path = addon.dli_fname ? addon.dli_fname : "";
  const char* named = std::getenv("OPENALPACA_EMULATED_LIBRARY");
  const std::string library = named ? named : path.substr(0, path.rfind('/') + 1) + "libopenalpaca_emulated.so";
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw Error("DEVICE_UNAVAILABLE", std::string("the emulated device cannot be loaded: ") + dlerror());
  auto* open = reinterpret_cast<void* (*)()>(dlsym(handle, "openalpaca_open_emulated"));
  if (!open) throw Error("DEVICE_UNAVAILABLE", library + " is not the emulated device");
  const std::unique_ptr<std::shared_ptr<Device>> device(static_cast<std::shared_ptr<Device>*>(open()));
  return *device;
}

}  // namespace

std::shared_ptr<Device> open_device(const std::string& type) {
  if (type == "cpu") return cpu::open_device();
  if (type == "cuda" || type.rfind("cuda:", 0) == 0) return open_cuda(type);
  if (type == "emulated") return open_emulated();
  throw Error("DEVICE_UNAVAILABLE", "there is no device '" + type + "'; use cpu, cuda, or cuda:1 for the second GPU");
}

int count_devices(const std::string& type) {
  if (type != "cuda") return 1;
#ifdef OPENALPACA_CUDA
  return cuda::count_devices();
#else
  refuse_cuda();
#endif
}

}  // namespace openalpaca::binding
