// Replaces functions that glibc added after 2.28, in an addon that must load with 2.28, the oldest version that Node.js
// itself supports (scripts/portable.mjs). Hidden: only calls from this addon and its static libraries come here.

#include <pthread.h>
#include <time.h>

extern "C" {

// The newer versions set errno differently, but no caller here reads it.
#define OLDER(name, parameters, arguments)                  \
  __asm__(".symver older_" #name "," #name "@GLIBC_2.2.5"); \
  double older_##name parameters;                           \
  __attribute__((visibility("hidden"))) double name parameters { return older_##name arguments; }

OLDER(exp, (double x), (x))
OLDER(log, (double x), (x))
OLDER(log2, (double x), (x))
OLDER(pow, (double x, double y), (x, y))

#undef OLDER

// glibc 2.32; if it is true, the compiler's libstdc++ skips work that only threads need.
__attribute__((visibility("hidden"))) extern const char __libc_single_threaded = false;

// glibc 2.30; std::condition_variable waits with it for std::chrono::steady_clock. If the wall clock is set during the
// wait, it returns too early, and its callers check their clock and wait again, or too late.
__attribute__((visibility("hidden"))) int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                                                                 clockid_t clock, const timespec* deadline) {
  timespec now, wall;
  clock_gettime(clock, &now);
  clock_gettime(CLOCK_REALTIME, &wall);
  constexpr long second = 1'000'000'000;
  wall.tv_sec += deadline->tv_sec - now.tv_sec;
  wall.tv_nsec += deadline->tv_nsec - now.tv_nsec;
  if (wall.tv_nsec < 0) {
    wall.tv_nsec += second;
    --wall.tv_sec;
  } else if (wall.tv_nsec >= second) {
    wall.tv_nsec -= second;
    ++wall.tv_sec;
  }
  return pthread_cond_timedwait(condition, mutex, &wall);
}

}  // extern "C"
