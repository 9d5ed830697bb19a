#include "binding/handles.h"

#include "binding/addon.h"
#include "core/arguments.h"

namespace openalpaca::binding {

void check(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

Tensor TensorHandle::tensor(const std::string& what) const {
  if (!allocation->storage) throw ArgumentTypeError(what + " has been disposed of");
  Tensor tensor = view;
  tensor.storage = allocation->storage;
  return tensor;
}

void TensorHandle::check_device(const Device& device, const std::string& what) const {
  if (allocation->device.get() == &device) return;
  throw ArgumentTypeError(what + " is on another device (" + allocation->device->type() + ") than the stream (" +
                          device.type() + ")");
}

void TensorHandle::release(Napi::Env env) {
  if (!owner || !allocation->storage) return;
  allocation->storage.reset();
  Napi::MemoryManagement::AdjustExternalMemory(env, -static_cast<int64_t>(view.bytes()));
}

DType dtype_from(const Napi::Value& value, const std::string& what) {
  const std::string name = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  for (DType dtype : {DType::float32, DType::bfloat16, DType::float16, DType::int32}) {
    if (name == name_of(dtype)) return dtype;
  }
  throw ArgumentTypeError(what + ": unknown dtype '" + name + "'; use float32, bfloat16, float16 or int32");
}

Napi::Error to_javascript(Napi::Env env, std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (const ArgumentTypeError& e) {
    return Napi::TypeError::New(env, e.what());
  } catch (const ArgumentRangeError& e) {
    return Napi::RangeError::New(env, e.what());
  } catch (const Error& e) {
    const auto& factory = env.GetInstanceData<Addon>()->error_factory;
    return Napi::Error(env, factory.Call({Napi::String::New(env, e.code()), Napi::String::New(env, e.what())}));
  } catch (const std::exception& e) {
    return Napi::Error::New(env, e.what());
  }
}

}  // namespace openalpaca::binding
