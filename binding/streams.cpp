// Streams, events, and graphs; asynchronous results are promises.
#include <atomic>

#include "binding/addon.h"
#include "core/arguments.h"

namespace openalpaca::binding {

// A promise that a stream settles, and the objects that must stay alive until then.
struct Pending {
  Napi::Promise::Deferred deferred;
  Napi::ObjectReference buffer;
  std::shared_ptr<Stream> stream;
  std::shared_ptr<Storage> memory;
  std::exception_ptr error;
};

void settle(Napi::Env env, Napi::Function, void*, Pending* pending) {
  std::unique_ptr<Pending> owned(pending);
  if (env == nullptr) return;  // the environment is being torn down
  auto* addon = env.GetInstanceData<Addon>();
  if (--addon->pending == 0) addon->settler.Unref(env);
  Napi::HandleScope scope(env);
  if (owned->error) {
    owned->deferred.Reject(to_javascript(env, owned->error).Value());
  } else {
    owned->deferred.Resolve(env.Undefined());
  }
}

namespace {

// Called before the process or the environment ends, so that no op runs while libraries are being unloaded.
void abandon_streams(Addon* addon) {
  for (const auto& weak : addon->streams) {
    if (const auto stream = weak.lock()) stream->abandon();
  }
}

Napi::Promise notify(Napi::Env env, const std::shared_ptr<Stream>& stream, Napi::Object buffer = {},
                     std::shared_ptr<Storage> memory = {}) {
  auto* addon = env.GetInstanceData<Addon>();
  auto* pending = new Pending{Napi::Promise::Deferred::New(env), {}, stream, std::move(memory), nullptr};
  if (!buffer.IsEmpty()) pending->buffer = Napi::Persistent(buffer);
  const Napi::Promise promise = pending->deferred.Promise();
  if (addon->pending++ == 0) addon->settler.Ref(env);
  try {
    // Acquire keeps the channel alive after the environment; without an environment, the promise no longer matters.
    addon->settler.Acquire();
    stream->notify([settler = addon->settler, pending](std::exception_ptr error) mutable {
      pending->error = error;
      if (settler.NonBlockingCall(pending) == napi_ok) settler.Release();
    });
  } catch (...) {
    if (--addon->pending == 0) addon->settler.Unref(env);
    delete pending;
    throw;
  }
  return promise;
}

struct Bytes {
  Napi::Object object;
  uint8_t* data;
  size_t size;
};

// The tensor of a copy, which must be on the stream's device.
Tensor tensor_of(const Napi::CallbackInfo& info, const StreamHandle& stream, const std::string& op) {
  const auto& handle = unwrap<TensorHandle>(info[1], op + ": tensor");
  handle.check_device(*stream.device, op + ": tensor");
  return handle.tensor(op + ": tensor");
}

Bytes bytes_of(const Napi::Value& value, const Tensor& tensor, const std::string& op) {
  if (!value.IsTypedArray()) throw ArgumentTypeError(op + ": data must be a typed array");
  const auto array = value.As<Napi::TypedArray>();
  if (array.ByteLength() != tensor.bytes()) {
    throw ArgumentRangeError(op + ": data must have the tensor's " + std::to_string(tensor.bytes()) + " bytes, got " +
                             std::to_string(array.ByteLength()));
  }
  return {array, static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset(), array.ByteLength()};
}

StreamHandle& stream_of(const Napi::CallbackInfo& info, const char* op) {
  return unwrap<StreamHandle>(info[0], std::string(op) + ": stream");
}

Napi::Value create_stream(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto& device = unwrap<std::shared_ptr<Device>>(info[0], "streamCreate: device");
    const auto stream = device->make_stream();
    auto& streams = info.Env().GetInstanceData<Addon>()->streams;
    std::erase_if(streams, [](const auto& weak) { return weak.expired(); });
    streams.push_back(stream);
    return wrap(info.Env(), StreamHandle{device, stream});
  });
}

Napi::Value create_event(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto& device = unwrap<std::shared_ptr<Device>>(info[0], "eventCreate: device");
    return wrap(info.Env(), device->make_event());
  });
}

// streamWrite(stream, tensor, data): copies data before it returns, so the caller may change it afterwards.
void write(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    auto& stream = stream_of(info, "write");
    const Tensor tensor = tensor_of(info, stream, "write");
    const Bytes bytes = bytes_of(info[2], tensor, "write");
    auto copy = std::make_shared<std::vector<uint8_t>>(bytes.data, bytes.data + bytes.size);
    stream.stream->write(tensor, copy);
  });
}

// streamUpload(stream, tensor, data): a promise; data is read in place and must not change until the promise settles.
Napi::Value upload(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto& stream = stream_of(info, "upload");
    const Tensor tensor = tensor_of(info, stream, "upload");
    const Bytes bytes = bytes_of(info[2], tensor, "upload");
    stream.stream->check_notifiable();
    stream.stream->write(tensor, bytes.data);
    return notify(info.Env(), stream.stream, bytes.object);
  });
}

// streamRead(stream, tensor, data): a promise; data is filled when it settles.
Napi::Value read(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto& stream = stream_of(info, "read");
    const Tensor tensor = tensor_of(info, stream, "read");
    const Bytes bytes = bytes_of(info[2], tensor, "read");
    stream.stream->check_notifiable();
    stream.stream->read(bytes.data, tensor);
    return notify(info.Env(), stream.stream, bytes.object);
  });
}

// streamTransfer(stream, destination, source): a promise. One tensor is on the stream's device; the other is in host
// memory, as CPU tensors are, and must not change until the promise settles.
Napi::Value transfer(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    auto& stream = stream_of(info, "transfer");
    const auto& to = unwrap<TensorHandle>(info[1], "transfer: destination");
    const auto& from = unwrap<TensorHandle>(info[2], "transfer: source");
    const Tensor destination = to.tensor("transfer: destination"), source = from.tensor("transfer: source");
    if (destination.bytes() != source.bytes() || destination.dtype != source.dtype) {
      throw ArgumentRangeError("transfer: source must have the destination's dtype and length");
    }
    const bool outwards = from.allocation->device == stream.device;
    const TensorHandle& host = outwards ? to : from;
    const std::string role = outwards ? "transfer: destination" : "transfer: source";
    if (!outwards) to.check_device(*stream.device, "transfer: destination");
    if (std::string(host.allocation->device->type()) != "cpu") throw ArgumentTypeError(role + " must be a CPU tensor");
    stream.stream->check_notifiable();
    if (outwards) {
      stream.stream->read(destination.raw(), source);
    } else {
      stream.stream->write(destination, source.raw());
    }
    return notify(info.Env(), stream.stream, {}, host.allocation->storage);
  });
}

Napi::Value synchronize(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return notify(info.Env(), stream_of(info, "synchronize").stream); });
}

void record(const Napi::CallbackInfo& info) {
  guarded(info.Env(),
          [&] { stream_of(info, "record").stream->record(unwrap<std::shared_ptr<Event>>(info[1], "record: event")); });
}

void wait(const Napi::CallbackInfo& info) {
  guarded(info.Env(),
          [&] { stream_of(info, "wait").stream->wait(unwrap<std::shared_ptr<Event>>(info[1], "wait: event")); });
}

void begin_capture(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] { stream_of(info, "beginCapture").stream->begin_capture(); });
}

Napi::Value end_capture(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return wrap(info.Env(), stream_of(info, "endCapture").stream->end_capture()); });
}

// streamsAbandon(): drops the queued work of all streams; for the end of the process, which runs no cleanup hooks.
void abandon_all(const Napi::CallbackInfo& info) { abandon_streams(info.Env().GetInstanceData<Addon>()); }

void launch(const Napi::CallbackInfo& info) {
  guarded(info.Env(),
          [&] { stream_of(info, "launch").stream->launch(unwrap<std::shared_ptr<Graph>>(info[1], "launch: graph")); });
}

}  // namespace

void export_streams(Napi::Env env, Napi::Object exports) {
  auto* addon = env.GetInstanceData<Addon>();
  addon->settler = Settler::New(env, "openalpaca", 0, 1);
  addon->settler.Unref(env);
  env.AddCleanupHook(abandon_streams, addon);

  exports.Set("streamCreate", Napi::Function::New(env, create_stream));
  exports.Set("eventCreate", Napi::Function::New(env, create_event));
  exports.Set("streamWrite", Napi::Function::New(env, write));
  exports.Set("streamUpload", Napi::Function::New(env, upload));
  exports.Set("streamRead", Napi::Function::New(env, read));
  exports.Set("streamTransfer", Napi::Function::New(env, transfer));
  exports.Set("streamSynchronize", Napi::Function::New(env, synchronize));
  exports.Set("streamRecord", Napi::Function::New(env, record));
  exports.Set("streamWait", Napi::Function::New(env, wait));
  exports.Set("streamBeginCapture", Napi::Function::New(env, begin_capture));
  exports.Set("streamEndCapture", Napi::Function::New(env, end_capture));
  exports.Set("streamsAbandon", Napi::Function::New(env, abandon_all));
  exports.Set("streamLaunch", Napi::Function::New(env, launch));
}

}  // namespace openalpaca::binding
