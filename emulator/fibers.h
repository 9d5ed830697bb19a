// Switching between stacks on one thread.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define OPENALPACA_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace openalpaca::emulator {

#if defined(OPENALPACA_ASAN)
constexpr size_t kStackBytes = 256 << 10;  // AddressSanitizer puts a red zone around every variable
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

#if defined(__x86_64__)
// Saves the callee-saved registers on the stack, and the stack pointer in *from; then does the reverse for `to`.
extern "C" void openalpaca_switch_stack(void** from, void* to);

// A stack that calls entry() on the first switch to it. entry must not return.
inline void* fresh_stack(unsigned char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;  // aligns the stack as after a call, and ends a debugger's backtrace
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // rbp, rbx, r12 to r15
  return top;
}
inline void switch_stack(void** from, void* to) { openalpaca_switch_stack(from, to); }
#else
// The stack pointer is a ucontext_t at the low end of the stack.
inline void* fresh_stack(unsigned char* stack, void (*entry)()) {
  auto* context = reinterpret_cast<ucontext_t*>(stack);
  getcontext(context);
  context->uc_stack.ss_sp = stack + sizeof(ucontext_t);
  context->uc_stack.ss_size = kStackBytes - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
inline void switch_stack(void** from, void* to) {
  static thread_local ucontext_t main_context;
  if (*from == nullptr) *from = &main_context;
  swapcontext(static_cast<ucontext_t*>(*from), static_cast<ucontext_t*>(to));
}
#endif

}  // namespace openalpaca::emulator
