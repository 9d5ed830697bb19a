#include "cpu/runtime/errors.h"

#include "core/device.h"

namespace openalpaca::cpu {

void fail(const char* code, const char* op, const char* message) {
  throw Error(code, std::string(op) + ": " + message);
}

void fail_index(const char* op, const char* what, int64_t index, int64_t limit) {
  throw Error("INVALID_INDEX", std::string(op) + ": " + what + " " + std::to_string(index) + " is outside [0, " +
                                   std::to_string(limit) + ")");
}

void fail_logits(const char* op, int64_t sequence) {
  throw Error("NON_FINITE", std::string(op) + ": the logits of sequence " + std::to_string(sequence) +
                                " are not finite, so no token can be chosen from them; check the model's weights");
}

void check_indices(const char* op, const char* what, const int32_t* ids, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] < 0 || ids[i] >= limit) fail_index(op, what, ids[i], limit);
  }
}

void check_cu_seqlens(const char* op, const int32_t* cu_seqlens, int64_t count, int64_t tokens) {
  const auto fail_at = [&](const char* rule, int64_t i) {
    throw Error("INVALID_SEQUENCES", std::string(op) + ": cu_seqlens must " + rule + ", but element " +
                                         std::to_string(i) + " is " + std::to_string(cu_seqlens[i]));
  };
  if (count == 0) fail("INVALID_SEQUENCES", op, "cu_seqlens must have at least one element, a 0");
  if (cu_seqlens[0] != 0) fail_at("start at 0", 0);
  for (int64_t i = 1; i < count; ++i) {
    if (cu_seqlens[i] < cu_seqlens[i - 1]) fail_at("not decrease", i);
  }
  if (cu_seqlens[count - 1] != tokens) {
    fail_at(("end at the number of tokens, " + std::to_string(tokens)).c_str(), count - 1);
  }
}

void check_head_size(const char* op, int64_t head_size) {
  if (head_size % 2 == 0) return;
  throw Error("INVALID_SHAPE", std::string(op) + ": the head size must be even, but is " + std::to_string(head_size));
}

}  // namespace openalpaca::cpu
