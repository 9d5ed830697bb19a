#include "core/arguments.h"

#include <cctype>
#include <cstring>

namespace openalpaca {

const ArgumentChecker::Binding* ArgumentChecker::find(const std::vector<Binding>& bindings,
                                                      const std::string& symbol) const {
  for (const Binding& binding : bindings) {
    if (binding.symbol == symbol) return &binding;
  }
  return nullptr;
}

void ArgumentChecker::check_dtype(const char* name, const Tensor& tensor, const std::string& expected) {
  const auto refuse = [&](const std::string& wanted) {
    throw ArgumentTypeError(std::string(op_) + ": " + name + " must be " + wanted + ", got " + name_of(tensor.dtype));
  };
  if (expected == "any") return;
  if (expected == "f32") {
    if (tensor.dtype != DType::float32) refuse("float32");
  } else if (expected == "i32") {
    if (tensor.dtype != DType::int32) refuse("int32");
  } else if (const Binding* bound = find(dtypes_, expected)) {
    if (static_cast<int64_t>(tensor.dtype) != bound->value) {
      refuse(std::string(name_of(static_cast<DType>(bound->value))) + " like " + bound->source);
    }
  } else {
    if (tensor.dtype != DType::float32 && tensor.dtype != DType::bfloat16) refuse("float32 or bfloat16");
    dtypes_.push_back({expected, static_cast<int64_t>(tensor.dtype), name});
  }
}

// An expression is a sum of terms; a term is a number, a symbol, or a number and a symbol: "7", "T", "H+2K".
void ArgumentChecker::check_dimension(const char* name, const Tensor& tensor, int axis, const std::string& expression,
                                      const char* specification) {
  const int64_t actual = tensor.shape[axis];
  int64_t expected = 0;
  std::string unbound, values;
  for (size_t start = 0; start < expression.size();) {
    const size_t end = std::min(expression.find('+', start), expression.size());
    const std::string term = expression.substr(start, end - start);
    start = end + 1;
    size_t digits = 0;
    while (digits < term.size() && std::isdigit(static_cast<unsigned char>(term[digits]))) ++digits;
    const int64_t factor = digits ? std::stoll(term.substr(0, digits)) : 1;
    const std::string symbol = term.substr(digits);
    if (symbol.empty()) {
      expected += factor;
    } else if (const Binding* bound = find(dimensions_, symbol)) {
      expected += factor * bound->value;
      values += (values.empty() ? " where " : ", ") + symbol + " = " + std::to_string(bound->value) + " from " +
                bound->source;
    } else {
      unbound = symbol;
    }
  }
  if (!unbound.empty()) {
    dimensions_.push_back({unbound, actual, name});
  } else if (actual != expected) {
    throw ArgumentRangeError(std::string(op_) + ": " + name + " must have shape " + std::strchr(specification, '[') +
                             values + ", got " + tensor.shape_string());
  }
}

void ArgumentChecker::tensor(const char* name, const Tensor& tensor, const char* specification) {
  if (*specification == '=' || *specification == '+') ++specification;  // access, which needs no check
  const char* open = std::strchr(specification, '[');
  check_dtype(name, tensor, std::string(specification, open));
  if (std::strcmp(open, "[...]") == 0) return;

  std::vector<std::string> dimensions(1);
  for (const char* p = open + 1; *p != ']'; ++p) {
    if (*p == ',') {
      dimensions.emplace_back();
    } else if (*p != ' ') {
      dimensions.back() += *p;
    }
  }
  if (tensor.rank != static_cast<int>(dimensions.size())) {
    throw ArgumentRangeError(std::string(op_) + ": " + name + " must have shape " + open + ", got " +
                             tensor.shape_string());
  }
  for (int axis = 0; axis < tensor.rank; ++axis) check_dimension(name, tensor, axis, dimensions[axis], specification);
}

void ArgumentChecker::integer(const char* name, int64_t value, const char* symbol) {
  if (value <= 0) {
    throw ArgumentRangeError(std::string(op_) + ": " + name + " must be positive, got " + std::to_string(value));
  }
  dimensions_.push_back({symbol, value, name});
}

void ArgumentChecker::same_length(const char* name, const Tensor& tensor, const char* other_name,
                                  const Tensor& other) const {
  if (tensor.numel() == other.numel()) return;
  throw ArgumentRangeError(std::string(op_) + ": " + name + " must have as many elements as " + other_name + ", " +
                           std::to_string(other.numel()) + ", got " + std::to_string(tensor.numel()));
}

void ArgumentChecker::multiple(const char* name, int64_t value, const char* of, int64_t divisor) const {
  if (value % divisor == 0) return;
  throw ArgumentRangeError(std::string(op_) + ": " + name + " must be a multiple of " + of + " = " +
                           std::to_string(divisor) + ", got " + std::to_string(value));
}

}  // namespace openalpaca
