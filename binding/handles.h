// Opaque handles: a JavaScript object that wraps a C++ value and carries its kind's type tag, so that a handle of
// another kind, or any other object, is rejected before its memory is accessed.
#pragma once

#include <napi.h>

#include <memory>
#include <string>

#include "core/communicator.h"

namespace openalpaca::binding {

// Device memory with one owner. Disposing of it invalidates all views at once; queued ops keep the storage itself
// alive.
struct Allocation {
  std::shared_ptr<Storage> storage;
  std::shared_ptr<Device> device;
};

struct TensorHandle {
  std::shared_ptr<Allocation> allocation;
  Tensor view;  // without its storage, which the allocation holds
  bool owner;

  // The tensor for an op; `what` names the argument in the error if it has been disposed of.
  Tensor tensor(const std::string& what) const;
  // Throws unless the tensor is on this device.
  void check_device(const Device& device, const std::string& what) const;
  // Releases the memory if this handle owns it, and reports that to V8.
  void release(Napi::Env env);
};

struct StreamHandle {
  std::shared_ptr<Device> device;
  std::shared_ptr<Stream> stream;
};

// Kinds and their tags: random numbers, generated once.
template <class T>
struct Kind;
template <>
struct Kind<std::shared_ptr<Device>> {
  static constexpr const char* name = "a device";
  static constexpr napi_type_tag tag = {0x6f1c3a52d98e4b07, 0x9a40e7735cd2186b};
};
template <>
struct Kind<TensorHandle> {
  static constexpr const char* name = "a tensor";
  static constexpr napi_type_tag tag = {0x2b97d1e04f6a83c5, 0xc05d2e918b7734fa};
};
template <>
struct Kind<StreamHandle> {
  static constexpr const char* name = "a stream";
  static constexpr napi_type_tag tag = {0xe83b5f07a1c2496d, 0x74d90b16f35ea82c};
};
template <>
struct Kind<std::shared_ptr<Event>> {
  static constexpr const char* name = "an event";
  static constexpr napi_type_tag tag = {0x10d6c94b7e25f38a, 0xb8327fa65e01cd94};
};
template <>
struct Kind<std::shared_ptr<Graph>> {
  static constexpr const char* name = "a graph";
  static constexpr napi_type_tag tag = {0x5ac81e73b04d926f, 0x3fe6429d17b8a50c};
};

template <>
struct Kind<std::shared_ptr<Communicator>> {
  static constexpr const char* name = "a communicator";
  static constexpr napi_type_tag tag = {0x8d21f6c09b35e47a, 0x47b9e3d8126fa05c};
};

void check(Napi::Env env, napi_status status);

// A handle's cleanup on garbage collection, before it is deleted.
template <class T>
void before_collection(Napi::Env, T&) {}
inline void before_collection(Napi::Env env, TensorHandle& handle) { handle.release(env); }

template <class T>
Napi::Object wrap(Napi::Env env, T value) {
  Napi::Object object = Napi::Object::New(env);
  auto* box = new T(std::move(value));
  const auto finalize = [](napi_env env, void* data, void*) {
    before_collection(env, *static_cast<T*>(data));
    delete static_cast<T*>(data);
  };
  check(env, napi_wrap(env, object, box, finalize, nullptr, nullptr));
  check(env, napi_type_tag_object(env, object, &Kind<T>::tag));
  return object;
}

// Unwraps a handle; `what` names the argument, as in "rmsnorm_forward: x".
template <class T>
T& unwrap(const Napi::Value& value, const std::string& what) {
  bool tagged = false;
  if (value.IsObject()) check(value.Env(), napi_check_object_type_tag(value.Env(), value, &Kind<T>::tag, &tagged));
  if (!tagged) throw Napi::TypeError::New(value.Env(), what + " must be " + Kind<T>::name);
  void* data = nullptr;
  check(value.Env(), napi_unwrap(value.Env(), value, &data));
  return *static_cast<T*>(data);
}

DType dtype_from(const Napi::Value& value, const std::string& what);

Napi::Error to_javascript(Napi::Env env, std::exception_ptr error);

// Calls a function and converts C++ exceptions to JavaScript exceptions.
template <class F>
auto guarded(Napi::Env env, F&& f) -> decltype(f()) {
  try {
    return f();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_javascript(env, std::current_exception());
  }
}

// The parts of the addon, one file each.
void export_tensors(Napi::Env env, Napi::Object exports);
void export_streams(Napi::Env env, Napi::Object exports);
void export_ops(Napi::Env env, Napi::Object exports);
void export_communicators(Napi::Env env, Napi::Object exports);

}  // namespace openalpaca::binding
