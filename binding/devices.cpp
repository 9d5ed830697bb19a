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
  throw Error("DEVICE_UNAVAILABLE", "CUDA is not in this build. At build time: " OPENALPACA_NO_CUDA_REASON);
}
#endif

// type is "cuda" or "cuda:<number>".
std::shared_ptr<Device> open_cuda(const std::string& type) {
  int ordinal = 0;
  if (type.size() > 4) {
    const std::string number = type.substr(5);
    if (number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos) {
      throw Error("INVALID_DEVICE", "expected a device such as cuda or cuda:1, got '" + type + "'");
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

// Loads the library next to the addon, where the repository's build puts it, or the one in OPENALPACA_EMULATED_LIBRARY.
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
  throw Error("DEVICE_UNAVAILABLE", "unknown device '" + type + "': use cpu, cuda, or cuda:1 for the second GPU");
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
