// Replaces what glibc has from 2.29 on, in an addon that is to load with 2.28, the oldest that Node.js itself runs with
// (scripts/portable.mjs). Hidden: only this addon's calls come here, those of its static libraries too.

#include <pthread.h>
#include <time.h>

extern "C" {

// The newer versions differ in how they set errno, which nobody reads here.
#define OLDER(name, parameters, arguments)                  \
  __asm__(".symver older_" #name "," #name "@GLIBC_2.2.5"); \
  double older_##name parameters;                           \
  __attribute__((visibility("hidden"))) double name parameters { return older_##name arguments; }

OLDER(exp, (double x), (x))
OLDER(log, (double x), (x))
OLDER(log2, (double x), (x))
OLDER(pow, (double x, double y), (x, y))

#undef OLDER

// glibc 2.32; where it is true, the compiler's libstdc++ leaves out what only threads need.
__attribute__((visibility("hidden"))) extern const char __libc_single_threaded = false;

// glibc 2.30; std::condition_variable waits with it for std::chrono::steady_clock. Where the wall clock is set
// meanwhile, it returns too early, after which its callers look at their clock and wait again, or too late.
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
