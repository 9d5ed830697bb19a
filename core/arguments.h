// Checks the arguments of an op against its specifications in ops.h.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace openalpaca {

// An argument of the wrong kind or dtype (a TypeError in JavaScript).
struct ArgumentTypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
// An argument of the wrong shape or value (a RangeError in JavaScript).
struct ArgumentRangeError : std::out_of_range {
  using std::out_of_range::out_of_range;
};

// Binds the symbols of one call's specifications in argument order, and throws at the first mismatch.
class ArgumentChecker {
 public:
  explicit ArgumentChecker(const char* op) : op_(op) {}

  void tensor(const char* name, const Tensor& tensor, const char* specification);
  void integer(const char* name, int64_t value, const char* symbol);
  void same_length(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) const;
  void multiple(const char* name, int64_t value, const char* of, int64_t divisor) const;

 private:
  struct Binding {
    std::string symbol;
    int64_t value;       // of a dimension, or a DType
    const char* source;  // the argument that bound it
  };
  const Binding* find(const std::vector<Binding>& bindings, const std::string& symbol) const;
  void check_dtype(const char* name, const Tensor& tensor, const std::string& expected);
  void check_dimension(const char* name, const Tensor& tensor, int axis, const std::string& expression,
                       const char* specification);

  const char* op_;
  std::vector<Binding> dtypes_, dimensions_;
};

}  // namespace openalpaca
