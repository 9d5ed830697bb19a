// Errors from kernels, out of line so that kernel files do not need the standard library.
#pragma once

#include <cstdint>

namespace openalpaca::cpu {

// Throws Error(code): "<op>: <message>".
[[noreturn]] void fail(const char* code, const char* op, const char* message);

// Throws Error("INVALID_INDEX"): "<op>: <what> <index> is outside [0, <limit>)".
[[noreturn]] void fail_index(const char* op, const char* what, int64_t index, int64_t limit);

// Throws Error("NON_FINITE") for logits whose sampling depends on a NaN or an infinity.
[[noreturn]] void fail_logits(const char* op, int64_t sequence);

// Throws unless 0 <= ids[i] < limit for every i.
void check_indices(const char* op, const char* what, const int32_t* ids, int64_t count, int64_t limit);

// Throws Error("INVALID_SEQUENCES") unless the `count` numbers start at 0, never decrease, and end at `tokens`.
void check_cu_seqlens(const char* op, const int32_t* cu_seqlens, int64_t count, int64_t tokens);

// Throws Error("INVALID_SHAPE") for an odd head size.
void check_head_size(const char* op, int64_t head_size);

}  // namespace openalpaca::cpu
