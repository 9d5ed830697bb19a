// Tensors: allocation, views, disposal.
#include "binding/handles.h"
#include "core/arguments.h"

namespace openalpaca::binding {
namespace {

void read_shape(Tensor& tensor, const Napi::Value& value, const std::string& op) {
  if (!value.IsArray()) throw ArgumentTypeError(op + ": shape must be an array");
  const Napi::Array shape = value.As<Napi::Array>();
  if (shape.Length() > kMaxRank) throw ArgumentRangeError(op + ": a tensor has at most 4 dimensions");
  tensor.rank = static_cast<int>(shape.Length());
  int64_t numel = 1;
  for (int i = 0; i < tensor.rank; ++i) {
    const Napi::Value dimension = shape[i];
    const double size = dimension.IsNumber() ? dimension.As<Napi::Number>().DoubleValue() : -1;
    if (!(size >= 0 && size <= 9007199254740991.0) || size != static_cast<double>(static_cast<int64_t>(size))) {
      throw ArgumentRangeError(op + ": shape[" + std::to_string(i) + "] must be a non-negative integer");
    }
    tensor.shape[i] = static_cast<int64_t>(size);
    if (__builtin_mul_overflow(numel, tensor.shape[i], &numel) || numel > (int64_t{1} << 50)) {
      throw ArgumentRangeError(op + ": a tensor of shape " + tensor.shape_string() + " is too large");
    }
  }
}

// tensorCreate(device, dtype, shape): uninitialized memory.
Napi::Value create(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto& device = unwrap<std::shared_ptr<Device>>(info[0], "tensorCreate: device");
    TensorHandle handle{std::make_shared<Allocation>(), {}, true};
    handle.view.dtype = dtype_from(info[1], "tensorCreate");
    read_shape(handle.view, info[2], "tensorCreate");
    handle.allocation->device = device;
    handle.allocation->storage = device->allocate(handle.view.bytes());
    Napi::MemoryManagement::AdjustExternalMemory(info.Env(), static_cast<int64_t>(handle.view.bytes()));
    return wrap(info.Env(), std::move(handle));
  });
}

// tensorView(tensor, offset, dtype, shape): a view of part of the same memory; offset in bytes.
Napi::Value view(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto& base = unwrap<TensorHandle>(info[0], "tensorView: tensor");
    const Tensor whole = base.tensor("tensorView: tensor");
    TensorHandle handle{base.allocation, {}, false};
    const int64_t offset = info[1].As<Napi::Number>().Int64Value();
    handle.view.dtype = dtype_from(info[2], "tensorView");
    read_shape(handle.view, info[3], "tensorView");
    const size_t end = static_cast<size_t>(offset) + handle.view.bytes();
    if (offset < 0 || offset % static_cast<int64_t>(size_of(handle.view.dtype)) || end > whole.bytes()) {
      throw ArgumentRangeError("tensorView: bytes " + std::to_string(offset) + " to " + std::to_string(end) +
                               " are outside of a tensor of " + std::to_string(whole.bytes()) + " bytes");
    }
    handle.view.offset = whole.offset + static_cast<size_t>(offset);
    return wrap(info.Env(), std::move(handle));
  });
}

// tensorDispose(tensor): an owner's memory is freed when no queued op needs it; a view only drops its reference.
void dispose(const Napi::CallbackInfo& info) {
  unwrap<TensorHandle>(info[0], "tensorDispose: tensor").release(info.Env());
}

}  // namespace

void export_tensors(Napi::Env env, Napi::Object exports) {
  exports.Set("tensorCreate", Napi::Function::New(env, create));
  exports.Set("tensorView", Napi::Function::New(env, view));
  exports.Set("tensorDispose", Napi::Function::New(env, dispose));
}

}  // namespace openalpaca::binding
