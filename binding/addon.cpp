// The addon's entry point: devices here; tensors.cpp, streams.cpp, ops.cpp, and communicators.cpp export the rest. This
// directory contains no arithmetic.
#include "binding/addon.h"

#include <cmath>

#include "binding/devices.h"
#include "core/arguments.h"

namespace openalpaca::binding {
namespace {

Napi::Object describe(Napi::Env env, const Device& device) {
  const DeviceProperties properties = device.properties();
  Napi::Object object = Napi::Object::New(env);
  object.Set("name", properties.name);
  object.Set("isa", properties.isa);
  object.Set("units", properties.units);
  object.Set("fastBfloat16", properties.fast_bfloat16);
  object.Set("id", properties.id);
  object.Set("totalMemory", static_cast<double>(properties.total_memory));
  object.Set("freeMemory", static_cast<double>(properties.free_memory));
  return object;
}

// deviceOpen(type)
Napi::Value open(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return wrap(info.Env(), open_device(info[0].ToString())); });
}

// deviceCount(type)
Napi::Value count(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return Napi::Number::New(info.Env(), count_devices(info[0].ToString())); });
}

Napi::Value properties(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    return describe(info.Env(), *unwrap<std::shared_ptr<Device>>(info[0], "deviceProperties: device"));
  });
}

Napi::Value libraries(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto& device = unwrap<std::shared_ptr<Device>>(info[0], "deviceLibraries: device");
    Napi::Object versions = Napi::Object::New(info.Env());
    for (const auto& [name, version] : device->libraries()) versions.Set(name, version);
    return versions;
  });
}

// deviceSetThreads(device, threads)
void set_threads(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const auto& device = unwrap<std::shared_ptr<Device>>(info[0], "deviceSetThreads: device");
    const double threads = info[1].IsNumber() ? info[1].As<Napi::Number>().DoubleValue() : 0;
    if (!(threads >= 1 && threads <= 4096) || threads != std::floor(threads)) {
      throw ArgumentRangeError("deviceSetThreads: threads must be an integer from 1 to 4096");
    }
    device->set_threads(static_cast<int>(threads));
  });
}

// setErrorFactory((code, message) => Error): creates the exception for an error that has a code
void set_error_factory(const Napi::CallbackInfo& info) {
  info.Env().GetInstanceData<Addon>()->error_factory = Napi::Persistent(info[0].As<Napi::Function>());
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Addon);
  exports.Set("setErrorFactory", Napi::Function::New(env, set_error_factory));
  exports.Set("deviceOpen", Napi::Function::New(env, open));
  exports.Set("deviceCount", Napi::Function::New(env, count));
  exports.Set("deviceProperties", Napi::Function::New(env, properties));
  exports.Set("deviceLibraries", Napi::Function::New(env, libraries));
  exports.Set("deviceSetThreads", Napi::Function::New(env, set_threads));
  export_tensors(env, exports);
  export_streams(env, exports);
  export_ops(env, exports);
  export_communicators(env, exports);
  return exports;
}

NODE_API_MODULE(openalpaca, init)

}  // namespace
}  // namespace openalpaca::binding
