// One JavaScript function for each op, made from its fields in core/ops.h: ops.<name>(stream, ...fields in their
// order). Visitors of fields() list the arguments, read them, and check them.
#include <cmath>

#include "binding/handles.h"
#include "core/arguments.h"

namespace openalpaca::binding {
namespace {

// Collects { name, access } of each field: access is "read", "write", or "update" for a tensor, "" for a number.
struct FieldList {
  Napi::Array fields;
  void add(const char* name, const char* access) {
    Napi::Object field = Napi::Object::New(fields.Env());
    field.Set("name", name);
    field.Set("access", access);
    fields[fields.Length()] = field;
  }
  void operator()(const char* name, Tensor&, const char* specification) {
    add(name, *specification == '=' ? "write" : *specification == '+' ? "update" : "read");
  }
  template <class T, class... Rest>
  void operator()(const char* name, T&, Rest&&...) {
    add(name, "");
  }
  template <class T, class... Rest>
  void optional(const char* name, T& value, Rest&&... rest) {
    (*this)(name, value, rest...);
  }
  void multiple(const char*, int64_t, const char*, int64_t) {}
  void same_length(const char*, const Tensor&, const char*, const Tensor&) {}
};

class ArgumentReader {
 public:
  ArgumentReader(const Napi::CallbackInfo& info, const char* op, const Device& device)
      : info_(info), op_(op), device_(device), checker_(op) {}

  void operator()(const char* name, Tensor& tensor, const char* specification) {
    const auto& handle = unwrap<TensorHandle>(info_[next_++], what(name));
    tensor = handle.tensor(what(name));
    handle.check_device(device_, what(name));
    checker_.tensor(name, tensor, specification);
  }
  // Left out, it keeps its default.
  template <class T, class... Specification>
  void optional(const char* name, T& value, Specification... specification) {
    if (info_[next_].IsUndefined() || info_[next_].IsNull()) {
      ++next_;
    } else {
      (*this)(name, value, specification...);
    }
  }
  void operator()(const char* name, double& value) { value = number(name); }
  void operator()(const char* name, bool& value) {
    const Napi::Value argument = info_[next_++];
    if (!argument.IsBoolean()) throw ArgumentTypeError(what(name) + " must be a boolean");
    value = argument.As<Napi::Boolean>();
  }
  void operator()(const char* name, int64_t& value) {
    const double given = number(name);
    // Beyond 2^53 a double holds no exact integer, and beyond 2^63 the conversion is undefined.
    value = std::abs(given) <= 9007199254740992.0 ? static_cast<int64_t>(given) : 0;
    if (static_cast<double>(value) != given) {
      throw ArgumentRangeError(what(name) + " must be an integer, got " + std::to_string(given));
    }
  }
  void operator()(const char* name, int64_t& value, const char* symbol) {
    (*this)(name, value);
    checker_.integer(name, value, symbol);
  }
  void same_length(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) const {
    checker_.same_length(name, tensor, other_name, other);
  }
  void multiple(const char* name, int64_t value, const char* of, int64_t divisor) const {
    checker_.multiple(name, value, of, divisor);
  }

 private:
  std::string what(const char* name) const { return std::string(op_) + ": " + name; }
  double number(const char* name) {
    const Napi::Value argument = info_[next_++];
    if (!argument.IsNumber()) throw ArgumentTypeError(what(name) + " must be a number");
    return argument.As<Napi::Number>().DoubleValue();
  }

  const Napi::CallbackInfo& info_;
  const char* op_;
  const Device& device_;
  ArgumentChecker checker_;
  size_t next_ = 1;
};

template <class Args, void (Stream::*function)(const Args&)>
void run(const Napi::CallbackInfo& info) {
  guarded(info.Env(), [&] {
    auto& stream = unwrap<StreamHandle>(info[0], std::string(Args::name) + ": stream");
    ArgumentReader reader(info, Args::name, *stream.device);
    Args args;
    args.fields(reader);
    (stream.stream.get()->*function)(args);
  });
}

template <class Args>
Napi::Array field_list(Napi::Env env) {
  FieldList visitor{Napi::Array::New(env)};
  Args args;
  args.fields(visitor);
  return visitor.fields;
}

}  // namespace

void export_ops(Napi::Env env, Napi::Object exports) {
  Napi::Object ops = Napi::Object::New(env), fields = Napi::Object::New(env);
#define OPENALPACA_EXPORT(Args, function)                                      \
  ops.Set(Args::name, Napi::Function::New(env, run<Args, &Stream::function>)); \
  fields.Set(Args::name, field_list<Args>(env));
  OPENALPACA_OPS(OPENALPACA_EXPORT)
#undef OPENALPACA_EXPORT
  exports.Set("ops", ops);
  exports.Set("opFields", fields);
}

}  // namespace openalpaca::binding
