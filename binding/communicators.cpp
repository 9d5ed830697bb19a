// Communicators: collectives, enqueued on streams like ops.
#include <cmath>

#include "binding/handles.h"
#include "collectives/gloo.h"
#include "core/arguments.h"

namespace openalpaca::binding {
namespace {

using CommunicatorHandle = std::shared_ptr<Communicator>;

int integer(const Napi::Value& value, const char* what, int minimum, int maximum) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (number >= minimum && number <= maximum && number == std::floor(number)) return static_cast<int>(number);
  throw ArgumentRangeError(std::string(what) + " must be an integer from " + std::to_string(minimum) + " to " +
                           std::to_string(maximum));
}

// communicatorCreate(device, backend, rank, size, hostname, timeoutMilliseconds)
Napi::Value create(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto& device = unwrap<std::shared_ptr<Device>>(info[0], "communicatorCreate: device");
    const std::string backend = info[1].ToString();
    const int size = integer(info[3], "communicatorCreate: size", 1, 65536);
    const int rank = integer(info[2], "communicatorCreate: rank", 0, size - 1);
    const std::chrono::milliseconds timeout(integer(info[5], "communicatorCreate: timeout", 1, 1 << 30));
    if (backend == "nccl") return wrap(info.Env(), device->make_communicator(rank, size, timeout));
    if (backend == "gloo") return wrap(info.Env(), cpu::make_gloo(rank, size, info[4].ToString(), timeout));
    throw ArgumentTypeError("communicatorCreate: backend must be nccl or gloo, got " + backend);
  });
}

Napi::Value address(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto bytes = unwrap<CommunicatorHandle>(info[0], "communicatorAddress: communicator")->address();
    return Napi::Buffer<uint8_t>::Copy(info.Env(), bytes.data(), bytes.size());
  });
}

// A call's communicator, stream, and tensors, validated.
class Call {
 public:
  Call(const Napi::CallbackInfo& info, const char* name)
      : info_(info),
        name_(name),
        communicator(*unwrap<CommunicatorHandle>(info[0], std::string(name) + ": communicator")),
        stream_(unwrap<StreamHandle>(info[1], std::string(name) + ": stream")) {}

  Stream& stream() const { return *stream_.stream; }
  Tensor tensor(int argument, const char* name) const {
    const std::string what = std::string(name_) + ": " + name;
    const auto& handle = unwrap<TensorHandle>(info_[argument], what);
    handle.check_device(*stream_.device, what);
    const Tensor tensor = handle.tensor(what);
    if (tensor.dtype != DType::float32 && tensor.dtype != DType::bfloat16) {
      throw ArgumentTypeError(what + " must be float32 or bfloat16, got " + name_of(tensor.dtype));
    }
    return tensor;
  }
  // Checks the tensor of all ranks' parts against that of one part.
  void check_parts(const char* all_name, const Tensor& all, const char* part_name, const Tensor& part) const {
    if (all.dtype != part.dtype) {
      throw ArgumentTypeError(std::string(name_) + ": " + part_name + " must have the dtype of " + all_name + ", " +
                              name_of(all.dtype) + ", got " + name_of(part.dtype));
    }
    if (all.numel() != part.numel() * communicator.size()) {
      throw ArgumentRangeError(std::string(name_) + ": " + all_name + " must have " +
                               std::to_string(communicator.size()) + " times the " + std::to_string(part.numel()) +
                               " elements of " + part_name + ", got " + std::to_string(all.numel()));
    }
  }

 private:
  const Napi::CallbackInfo& info_;
  const char* name_;

 public:
  Communicator& communicator;

 private:
  StreamHandle& stream_;
};

// Waits for the other ranks on a libuv pool thread.
class Connect : public Napi::AsyncWorker {
 public:
  Connect(Napi::Env env, CommunicatorHandle communicator, std::vector<Communicator::Address> addresses)
      : AsyncWorker(env), deferred_(env), communicator_(std::move(communicator)), addresses_(std::move(addresses)) {}
  Napi::Promise promise() const { return deferred_.Promise(); }

  void Execute() override {
    try {
      communicator_->connect(addresses_);
    } catch (...) {
      error_ = std::current_exception();
    }
  }
  void OnOK() override {
    error_ ? deferred_.Reject(to_javascript(Env(), error_).Value()) : deferred_.Resolve(Env().Undefined());
  }

 private:
  const Napi::Promise::Deferred deferred_;
  const CommunicatorHandle communicator_;
  const std::vector<Communicator::Address> addresses_;
  std::exception_ptr error_;
};

// communicatorConnect(communicator, addresses): a promise.
Napi::Value connect(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto& communicator = unwrap<CommunicatorHandle>(info[0], "connect: communicator");
    const auto array = info[1].As<Napi::Array>();
    std::vector<Communicator::Address> addresses;
    for (uint32_t rank = 0; rank < array.Length(); ++rank) {
      const Napi::Value value = array[rank];
      if (!value.IsTypedArray()) throw ArgumentTypeError("connect: addresses must be a list of Uint8Array");
      const auto bytes = value.As<Napi::Uint8Array>();
      addresses.emplace_back(bytes.Data(), bytes.Data() + bytes.ByteLength());
    }
    const size_t expected = communicator->address().size();
    for (const auto& address : addresses) {
      if (address.size() != expected) throw ArgumentRangeError("connect: the addresses differ in length");
    }
    if (static_cast<int>(addresses.size()) != communicator->size()) {
      throw ArgumentRangeError("connect: addresses must have one entry per rank");
    }
    auto* worker = new Connect(info.Env(), communicator, std::move(addresses));
    worker->Queue();
    return worker->promise();
  });
}

// communicatorAllGather(communicator, stream, out, in)
void all_gather(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const Call call(info, "all_gather");
    const Tensor out = call.tensor(2, "out"), in = call.tensor(3, "in");
    call.check_parts("out", out, "in", in);
    call.communicator.all_gather(call.stream(), out, in);
  });
}

// communicatorReduceScatter(communicator, stream, out, in)
void reduce_scatter(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const Call call(info, "reduce_scatter");
    const Tensor out = call.tensor(2, "out"), in = call.tensor(3, "in");
    call.check_parts("in", in, "out", out);
    call.communicator.reduce_scatter(call.stream(), out, in);
  });
}

void all_reduce(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const Call call(info, "all_reduce");
    call.communicator.all_reduce(call.stream(), call.tensor(2, "x"));
  });
}

// communicatorBroadcast(communicator, stream, x, root)
void broadcast(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const Call call(info, "broadcast");
    const int root = integer(info[3], "broadcast: root", 0, call.communicator.size() - 1);
    call.communicator.broadcast(call.stream(), call.tensor(2, "x"), root);
  });
}

void barrier(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    const Call call(info, "barrier");
    call.communicator.barrier(call.stream());
  });
}

// communicatorAbort(communicator, code, message)
void abort(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    unwrap<CommunicatorHandle>(info[0], "abort: communicator")->abort(Error(info[1].ToString(), info[2].ToString()));
  });
}

}  // namespace

void export_communicators(Napi::Env env, Napi::Object exports) {
  exports.Set("communicatorCreate", Napi::Function::New(env, create));
  exports.Set("communicatorAddress", Napi::Function::New(env, address));
  exports.Set("communicatorConnect", Napi::Function::New(env, connect));
  exports.Set("communicatorAllGather", Napi::Function::New(env, all_gather));
  exports.Set("communicatorReduceScatter", Napi::Function::New(env, reduce_scatter));
  exports.Set("communicatorAllReduce", Napi::Function::New(env, all_reduce));
  exports.Set("communicatorBroadcast", Napi::Function::New(env, broadcast));
  exports.Set("communicatorBarrier", Napi::Function::New(env, barrier));
  exports.Set("communicatorAbort", Napi::Function::New(env, abort));
}

}  // namespace openalpaca::binding
