#include "cuda/runtime/faults.h"

#include <cstring>
#include <string>

#include "core/device.h"

namespace openalpaca::cuda {
namespace {

constexpr const char* kOps[] = {
#define OPENALPACA_NAME(Args, function) Args::name,
    OPENALPACA_OPS(OPENALPACA_NAME)
#undef OPENALPACA_NAME
};

// The names of the indices that an op's rules 0 and 1 check.
struct Indices {
  const char* op;
  const char* names[2];
};
constexpr Indices kIndices[] = {
    {EmbeddingForward::name, {"id", "id"}},         {EmbeddingBackward::name, {"id", "id"}},
    {RopeForward::name, {"position", "position"}},  {RopeBackward::name, {"position", "position"}},
    {KvCacheWrite::name, {"sequence", "position"}}, {AttentionDecode::name, {"position", "position"}},
    {CrossEntropy::name, {"label", "label"}},       {Sample::name, {"token", "token"}},
};

Error describe(const Fault& fault) {
  const uint64_t where = ~fault.where;
  const auto index = std::to_string(where >> 33);
  const int rule = static_cast<int>(where >> 32 & 1);
  const auto value = std::to_string(static_cast<int32_t>(where)), limit = std::to_string(fault.limit);
  const char* op = fault.op >= 1 && fault.op <= static_cast<int32_t>(std::size(kOps)) ? kOps[fault.op - 1] : "an op";
  const std::string prefix = std::string(op) + ": ";

  const auto is = [&](const char* name) { return std::strcmp(op, name) == 0; };
  if (is(AttentionForward::name) || is(AttentionBackward::name)) {
    const bool start = where >> 33 == 0 && rule == 0;
    if (start && static_cast<int32_t>(where) == 0) {  // a first element of 0 is valid: here it means that there is none
      return Error("INVALID_SEQUENCES", prefix + "cu_seqlens must have at least one element, a 0");
    }
    const std::string must = start       ? "start at 0"
                             : rule == 0 ? "not decrease"
                                         : "end at the number of tokens, " + limit;
    return Error("INVALID_SEQUENCES", prefix + "cu_seqlens must " + must + ", but element " + index + " is " + value);
  }
  if (is(Sample::name) && rule == 1) {
    return Error("NON_FINITE", prefix + "the logits of sequence " + index +
                                   " are not finite, so no token can be chosen from them; check the model's weights");
  }
  const char* what = "index";
  for (const Indices& entry : kIndices) {
    if (is(entry.op)) what = entry.names[rule];
  }
  return Error("INVALID_INDEX", prefix + what + " " + value + " is outside [0, " + limit + ")");
}

}  // namespace

std::exception_ptr error_of(const Fault& fault) {
  return fault.op == 0 ? nullptr : std::make_exception_ptr(describe(fault));
}

}  // namespace openalpaca::cuda
