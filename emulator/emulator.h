// The CUDA execution model on one CPU thread: every thread of a block is a fiber, and blocks run one after another. The
// emulator's versions of the CUDA headers build on this file; authors of kernels only need README.md.
//
// A fiber runs until it waits (for a barrier, or for the other lanes of its warp) or ends; then the next one runs. The
// order is shuffled with a fixed seed, so that a kernel that relies on an order fails, and fails reproducibly. Shared
// memory has a shadow that records the last write and reads; see Shadow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <source_location>
#include <string>
#include <vector>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace openalpaca::emulator {

using Place = std::source_location;

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;
constexpr int kMaxPieces = 32;
// The first kCheckedBlocks blocks of a kernel on a stream have their shared memory accesses checked, and then one block
// in eight, unless OPENALPACA_EMULATOR_CHECK=all: a training run's hundredth step launches the same kernels as its
// first. Bounds, alignment, and barriers are always checked.
constexpr uint64_t kCheckedBlocks = 1024;

// The last accesses to two bytes of shared memory. A stamp holds, from the top: the number of the barrier interval (32
// bits, which continues from block to block, so that nothing needs clearing), the number of __syncwarp since that
// barrier (20), two flags, and the thread (10). Two accesses are ordered if the same thread made them, if a barrier
// lies between them, or, within a warp, a __syncwarp. Shuffles and votes order the lanes, not their memory, as in CUDA.
struct Shadow {
  uint64_t write, read;
};
constexpr uint64_t kThreadMask = 0x3ff;
constexpr uint64_t kAtomic = 1 << 10;        // write: by an atomic operation
constexpr uint64_t kPending = 1 << 11;       // write: by a cp.async in flight
constexpr uint64_t kSeveralLanes = 1 << 10;  // read: by several lanes of the thread's warp
constexpr uint64_t kSeveralWarps = 1 << 11;  // read: by threads of several warps
constexpr int kGranule = 2;                  // bytes of shared memory per Shadow

// A piece of shared memory, as returned by SharedMemory::take.
struct Piece {
  const char* name;
  int64_t begin, bytes;  // from the start of the block's shared memory
  int element;           // bytes
};

struct AsyncCopy {
  void* to;
  const void* from;  // nullptr: zeros
  int bytes;
};

struct Block;
struct Warp;

enum class State : uint8_t { fresh, ready, barrier, collective, ended };

struct Fiber {
  // The fields that every access check needs come first.
  uint64_t stamp = 0;     // this thread's current stamp, without flags
  uint64_t interval = 0;  // its upper 32 bits: older stamps lie before the last barrier
  uint64_t start = 0;     // stamps from before this block: uninitialized
  unsigned char* shared = nullptr;
  Shadow* shadow = nullptr;  // nullptr in a block whose accesses are not checked: see kCheckedBlocks
  uint3 thread = {};
  int index = 0, lane = 0;
  Block* block = nullptr;
  Warp* warp = nullptr;
  State state = State::fresh;
  const char* waits_for = nullptr;
  Place place;
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  // cp.async: copies in flight, and the end of each committed group in them.
  std::vector<AsyncCopy> copies;
  std::vector<size_t> groups;
};

struct Warp {
  uint32_t ready = 0;  // bit i: lane order[i] of the warp is ready
  int arrived = 0;     // lanes that wait for the others at `place`
  int lanes = 0, first = 0, index = 0;
  uint32_t all = 0;
  uint32_t syncs = 0;  // __syncwarp since the last barrier
  const char* what = nullptr;
  Place place;
  void* deposit[kLanes] = {};
};

// State shared by the threads of a block.
struct Block {
  uint3 index = {};
  dim3 size, grid;
  uint32_t interval = 0;
  int threads = 0, warps = 0, arrived = 0, ended = 0;
  int count[2] = {};  // of __syncthreads_count, for even and odd intervals
  Place place;
  Piece pieces[kMaxPieces];
  int piece_count = 0;
  size_t shared_bytes = 0;
  bool cancelling = false;
};

// A kernel made an error, or was canceled because another thread did.
struct KernelError {
  std::string text;
};
struct Cancelled {};

#define OPENALPACA_FIBER_LOCAL inline thread_local constinit __attribute__((tls_model("initial-exec")))
OPENALPACA_FIBER_LOCAL Fiber* current = nullptr;

struct Launch {
  const void* kernel = nullptr;
  dim3 grid, block;
  size_t shared_bytes = 0;
};

// Runs a kernel to completion on the calling thread; calls `body` once per thread. Throws KernelError.
void run(const Launch& launch, const std::function<void()>& body);

// Throws KernelError: "<kernel>, block …, thread …: <text>".
[[noreturn]] void fail(const std::string& text);
// "rmsnorm_kernel<float, 4>" for the address of a function.
std::string kernel_name(const void* kernel);

// ---- waiting --------------------------------------------------------------------------------------------------------

// __syncthreads, and __syncwarp.
void barrier(Place place);
int barrier_count(bool predicate, Place place);
void sync_warp(Place place);

// Waits for the other lanes: returns false in all lanes but the last, which then acts for all of them.
bool arrive(const char* what, void* mine, Place place);
// In the last lane: resumes the others.
void release(Warp& warp);

// All 32 lanes arrive with a value each; the last one calls act(values), and then all continue.
template <class T, class F>
inline void collective(const char* what, T& mine, Place place, F&& act) {
  if (!arrive(what, &mine, place)) return;
  Warp& warp = *current->warp;
  T* values[kLanes];
  for (int i = 0; i < kLanes; ++i) values[i] = static_cast<T*>(warp.deposit[i]);
  act(values);
  release(warp);
}

// ---- shared memory --------------------------------------------------------------------------------------------------

// The slow paths of the checks: they find that the access is valid after all, or fail.
void read_slowly(Shadow& shadow, const void* at);
void write_slowly(Shadow& shadow, const void* at, bool atomic);

inline Shadow* shadow_of(const void* at) {
  return current->shadow + (static_cast<const unsigned char*>(at) - current->shared) / kGranule;
}

inline void check_read(const void* at, int bytes) {
  Fiber& me = *current;
  if (!me.shadow) return;
  Shadow* shadow = shadow_of(at);
  for (Shadow* end = shadow + bytes / kGranule; shadow != end; ++shadow) {
    const uint64_t write = shadow->write;
    const uint64_t read = shadow->read;
    const bool ordered = write >= me.start && (write < me.interval || write == me.stamp);
    if (ordered && (read < me.interval || read == me.stamp)) {
      shadow->read = me.stamp;
    } else if (!ordered || !(read & kSeveralWarps)) {
      read_slowly(*shadow, at);
    }
  }
}

inline void check_write(const void* at, int bytes) {
  Fiber& me = *current;
  if (!me.shadow) return;
  Shadow* shadow = shadow_of(at);
  for (Shadow* end = shadow + bytes / kGranule; shadow != end; ++shadow) {
    if ((shadow->write < me.interval || shadow->write == me.stamp) &&
        (shadow->read < me.interval || shadow->read == me.stamp)) {
      shadow->write = me.stamp;
      shadow->read = 0;
    } else {
      write_slowly(*shadow, at, false);
    }
  }
}

inline void check_atomic(const void* at, int bytes) {
  if (!current->shadow) return;
  Shadow* shadow = shadow_of(at);
  for (Shadow* end = shadow + bytes / kGranule; shadow != end; ++shadow) write_slowly(*shadow, at, true);
}

[[noreturn]] void fail_shared_bounds(const Piece& piece, int64_t offset, int bytes);
[[noreturn]] void fail_alignment(const char* what, const void* at, int bytes);
[[noreturn]] void fail_global_bounds(int argument, int64_t element, int64_t count, int bytes, int elements);

const Piece* take_piece(int number, int64_t begin, int64_t bytes, int element, const char* name);

// ---- cp.async -------------------------------------------------------------------------------------------------------

void async_copy(void* to, const void* from, int bytes);
void async_commit();
void async_wait(size_t pending);

}  // namespace openalpaca::emulator

// The built-in variables of the running fiber.
OPENALPACA_FIBER_LOCAL uint3 threadIdx = {};
OPENALPACA_FIBER_LOCAL uint3 blockIdx = {};
OPENALPACA_FIBER_LOCAL dim3 blockDim = {};
OPENALPACA_FIBER_LOCAL dim3 gridDim = {};
