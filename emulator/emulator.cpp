#include "emulator/emulator.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>

#include "emulator/fibers.h"

#if defined(__x86_64__)
asm(R"(
.text
.globl openalpaca_switch_stack
.hidden openalpaca_switch_stack
.type openalpaca_switch_stack, @function
openalpaca_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size openalpaca_switch_stack, .-openalpaca_switch_stack
)");
#endif

namespace openalpaca::emulator {
namespace {

constexpr uint64_t kSeed = 0x9e3779b97f4a7c15;
constexpr uint64_t kPendingStamp = 0xffffffff00000000 | kPending;
constexpr size_t kSharedBytes = 256 << 10;  // more than any chip has
constexpr int kOrders = 61;

// Stacks, fibers, and shared memory. There is one per host thread, created when that thread first runs a kernel.
class Runner {
 public:
  Runner() : shared_(static_cast<unsigned char*>(std::aligned_alloc(1024, kSharedBytes))) {
    shadow_.resize(kSharedBytes / kGranule);
    page_ = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (auto& order : orders_) {
      for (int i = 0; i < kLanes; ++i) order[i] = static_cast<uint8_t>(i);
      for (int i = kLanes - 1; i > 0; --i) std::swap(order[i], order[random() % (i + 1)]);
    }
  }
  ~Runner() {
    std::free(shared_);
    for (const auto& [address, bytes] : mapped_) munmap(address, bytes);
  }

  void run(const Launch& launch, const std::function<void()>& body) {
    launch_ = &launch;
    body_ = &body;
    random_ = kSeed;
    error_.reset();
    block_ = Block();
    block_.size = launch.block;
    block_.grid = launch.grid;
    blockDim = launch.block;
    gridDim = launch.grid;
    block_.threads = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    block_.warps = (block_.threads + kLanes - 1) / kLanes;
    block_.shared_bytes = launch.shared_bytes;
    prepare_fibers();
    // Visits every block once, from a random start, with a step that is coprime to their number.
    const uint64_t blocks = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    uint64_t& blocks_of_kernel = blocks_run_[launch.kernel];
    uint64_t step = random() % blocks + 1;
    while (std::gcd(step, blocks) != 1) ++step;
    uint64_t number = random() % blocks;
    for (uint64_t i = 0; i < blocks; ++i, number = (number + step) % blocks) {
      block_.index = {static_cast<unsigned>(number % launch.grid.x),
                      static_cast<unsigned>(number / launch.grid.x % launch.grid.y),
                      static_cast<unsigned>(number / launch.grid.x / launch.grid.y)};
      const uint64_t count = blocks_of_kernel++;
      run_block(check_all_ || count < kCheckedBlocks || count % 8 == 0);
      if (error_) throw KernelError(*error_);
    }
  }

  // Switches from the waiting or ended fiber to the next ready one, or back to run_block.
  void next() {
    Fiber* from = current;
    switch_to(from, pick());
    if (block_.cancelling) throw Cancelled();
  }

  bool arrive(const char* what, void* mine, Place place) {
    Fiber& me = *current;
    Warp& warp = *me.warp;
    if (warp.arrived == 0) {
      if (warp.lanes != kLanes) {
        fail(std::string(what) + at(place) + " needs a warp of 32 threads, but the block's last one has " +
             std::to_string(warp.lanes));
      }
      warp.what = what;
      warp.place = place;
    } else if (warp.place.line() != place.line() || (warp.what != what && std::strcmp(warp.what, what) != 0)) {
      fail("divergent warp: this lane is at " + std::string(what) + at(place) + " while others of its warp wait at " +
           warp.what + at(warp.place));
    }
    warp.deposit[me.lane] = mine;
    if (++warp.arrived == kLanes) return true;
    me.state = State::collective;
    me.waits_for = what;
    me.place = place;
    next();
    return false;
  }

  void release(Warp& warp) {
    warp.arrived = 0;
    warp.ready = warp.all & ~(1u << position_[current->lane]);
  }

  void barrier(Place place) {
    Fiber& me = *current;
    if (block_.arrived == 0) {
      block_.place = place;
    } else if (block_.place.line() != place.line() || (block_.place.file_name() != place.file_name() &&
                                                       std::strcmp(block_.place.file_name(), place.file_name()) != 0)) {
      fail("divergent barrier: this thread is at __syncthreads" + at(place) + " while others wait at the one" +
           at(block_.place));
    }
    if (++block_.arrived == block_.threads) {
      block_.arrived = 0;
      block_.count[++block_.interval & 1] = 0;
      for (int i = 0; i < block_.warps; ++i) {
        warps_[i].ready = warps_[i].all;
        warps_[i].syncs = 0;
      }
      me.warp->ready &= ~(1u << position_[me.lane]);
    } else {
      me.state = State::barrier;
      me.waits_for = "__syncthreads";
      me.place = place;
      next();
    }
    stamp(me);
  }

  void stamp(Fiber& fiber) {
    fiber.interval = uint64_t{block_.interval} << 32;
    fiber.stamp = fiber.interval | uint64_t{fiber.warp->syncs} << 12 | static_cast<uint64_t>(fiber.index);
  }

  const Piece* take_piece(int number, int64_t begin, int64_t bytes, int element, const char* name) {
    if (number >= kMaxPieces) fail("takes more than " + std::to_string(kMaxPieces) + " pieces of shared memory");
    Piece& piece = block_.pieces[number];
    if (number == block_.piece_count) {
      if (begin + bytes > static_cast<int64_t>(block_.shared_bytes)) {
        fail("takes " + std::to_string(bytes) + " bytes of shared memory as \"" + name + "\" from byte " +
             std::to_string(begin) + " on, but was launched with " + std::to_string(block_.shared_bytes));
      }
      piece = {name, begin, bytes, element};
      ++block_.piece_count;
    } else if (piece.begin != begin || piece.bytes != bytes || piece.element != element ||
               std::strcmp(piece.name, name) != 0) {
      fail("takes \"" + std::string(name) + "\" where another thread took \"" + piece.name +
           "\": every thread must take the same pieces of shared memory in the same order");
    }
    return &piece;
  }

  // ", block …, thread …"; omits coordinates in dimensions of size one.
  std::string where() const {
    return "block " + coordinates(block_.index, block_.grid) + ", thread " + coordinates(current->thread, block_.size);
  }
  std::string name_thread(int index) const { return coordinates(thread_at(index), block_.size); }
  const Launch& launch() const { return *launch_; }
  const Block& block() const { return block_; }

  static std::string at(Place place) {
    const char* slash = std::strrchr(place.file_name(), '/');
    return std::string(" (") + (slash ? slash + 1 : place.file_name()) + ":" + std::to_string(place.line()) + ")";
  }

 private:
  static std::string coordinates(uint3 i, dim3 size) {
    if (size.y == 1 && size.z == 1) return std::to_string(i.x);
    std::string text = "(" + std::to_string(i.x) + ", " + std::to_string(i.y);
    if (size.z != 1) text += ", " + std::to_string(i.z);
    return text + ")";
  }

  uint64_t random() {  // xorshift
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    return random_ ^= random_ << 17;
  }

  void prepare_fibers() {
    if (static_cast<int>(fibers_.size()) < block_.threads) {
      const size_t missing = block_.threads - fibers_.size(), each = kStackBytes + page_;
      // A guard page below each stack, so that an overflow faults.
      auto* memory = static_cast<unsigned char*>(
          mmap(nullptr, missing * each, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      if (memory == MAP_FAILED) throw std::runtime_error("the emulator has no memory for the stacks of its threads");
      mapped_.emplace_back(memory, missing * each);
      for (size_t i = 0; i < missing; ++i, memory += each) {
        mprotect(memory, page_, PROT_NONE);
        fibers_.push_back(std::make_unique<Fiber>());
        fibers_.back()->stack = memory + page_;
      }
    }
    for (int i = 0; i < block_.threads; ++i) {
      Fiber& fiber = *fibers_[i];
      fiber.index = i;
      fiber.lane = i % kLanes;
      fiber.thread = thread_at(i);
      fiber.block = &block_;
      fiber.warp = &warps_[i / kLanes];
      fiber.shared = shared_;
    }
  }

  uint3 thread_at(int i) const {
    const dim3 size = launch_->block;
    return {i % size.x, i / size.x % size.y, i / size.x / size.y};
  }

  void run_block(bool checked) {
    const uint8_t* order = orders_[random() % kOrders];
    for (int i = 0; i < kLanes; ++i) {
      order_[i] = order[i];
      position_[order[i]] = static_cast<uint8_t>(i);
    }
    blockIdx = block_.index;
    block_.interval = ++interval_;
    block_.arrived = block_.ended = block_.piece_count = block_.count[0] = block_.count[1] = 0;
    block_.cancelling = false;
    for (int i = 0; i < block_.warps; ++i) {
      Warp& warp = warps_[i];
      warp.index = i;
      warp.first = i * kLanes;
      warp.lanes = std::min(kLanes, block_.threads - warp.first);
      warp.all = 0;
      for (int lane = 0; lane < warp.lanes; ++lane) warp.all |= 1u << position_[lane];
      warp.ready = warp.all;
      warp.arrived = 0;
      warp.syncs = 0;
    }
    for (int i = 0; i < block_.threads; ++i) {
      Fiber& fiber = *fibers_[i];
      stamp(fiber);
      fiber.start = fiber.interval;
      fiber.shadow = checked ? shadow_.data() : nullptr;
      fiber.state = State::fresh;
      fiber.stack_pointer = fresh_stack(fiber.stack, enter);
    }
    warp_ = &warps_[random() % block_.warps];
    switch_to(nullptr, pick());
    if (block_.ended < block_.threads) {
      if (!error_) error_ = describe_deadlock();
      cancel();
    }
    for (int i = 0; i < block_.threads; ++i) drop_copies(*fibers_[i]);
    interval_ = block_.interval;
  }

  // The next fiber: from this warp while one of its fibers is ready, then from another.
  Fiber* pick() {
    if (block_.cancelling || error_) return nullptr;
    if (warp_->ready == 0) {
      const int first = static_cast<int>(random() % block_.warps);
      int i = first;
      while (warps_[i].ready == 0) {
        i = i + 1 == block_.warps ? 0 : i + 1;
        if (i == first) return nullptr;
      }
      warp_ = &warps_[i];
    }
    const int position = __builtin_ctz(warp_->ready);
    warp_->ready &= warp_->ready - 1;
    return fibers_[warp_->first + order_[position]].get();
  }

  // nullptr is the stack of run_block.
  void switch_to(Fiber* from, Fiber* to) {
    if (from == to) return;
    current = to;
    void** save = from ? &from->stack_pointer : &main_stack_pointer_;
    void* target = to ? to->stack_pointer : main_stack_pointer_;
    if (to) {
      to->state = State::ready;
      threadIdx = to->thread;
    }
#if defined(OPENALPACA_ASAN)
    void** fake = from ? (from->state == State::ended ? nullptr : &from->fake_stack) : &main_fake_stack_;
    const void* bottom = to ? to->stack : main_stack_;
    __sanitizer_start_switch_fiber(fake, bottom, to ? kStackBytes : main_stack_bytes_);
    switch_stack(save, target);
    arrived(from);
#else
    switch_stack(save, target);
#endif
  }

#if defined(OPENALPACA_ASAN)
  void arrived(Fiber* me) {
    const void* bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(me ? me->fake_stack : main_fake_stack_, &bottom, &bytes);
    if (!me || main_stack_) return;
    main_stack_ = bottom;  // the first fiber to run comes from the main stack
    main_stack_bytes_ = bytes;
  }
#endif

  // A fiber's entry point.
  static void enter();
  void live() {
#if defined(OPENALPACA_ASAN)
    current->fake_stack = nullptr;
    arrived(current);
#endif
    try {
      (*body_)();
    } catch (const Cancelled&) {
    } catch (const KernelError& error) {
      if (!error_) error_ = error;
    } catch (const std::exception& error) {
      if (!error_) error_ = KernelError{error.what()};
    }
    current->state = State::ended;
    ++block_.ended;
    switch_to(current, pick());
    __builtin_unreachable();
  }

  // Unwinds the waiting fibers' stacks: a kernel's variables may have destructors.
  void cancel() {
    block_.cancelling = true;
    for (int i = 0; i < block_.threads; ++i) {
      if (fibers_[i]->state != State::fresh && fibers_[i]->state != State::ended) switch_to(nullptr, fibers_[i].get());
    }
  }

  KernelError describe_deadlock() const {
    // Groups threads in the same state: "threads 0–31 wait for __syncthreads (rope.cu:40)".
    std::string text;
    for (int i = 0; i < block_.threads;) {
      const auto same = [&](int j) {
        const Fiber &a = *fibers_[i], &b = *fibers_[j];
        return a.state == b.state && (a.state == State::ended ||
                                      (a.place.line() == b.place.line() && std::strcmp(a.waits_for, b.waits_for) == 0));
      };
      int end = i + 1;
      while (end < block_.threads && same(end)) ++end;
      text += text.empty() ? "" : ", ";
      text += end == i + 1 ? "thread " + name_thread(i) : "threads " + name_thread(i) + " to " + name_thread(end - 1);
      const bool one = end == i + 1;
      if (fibers_[i]->state == State::ended) {
        text += one ? " has ended" : " have ended";
      } else {
        text += (one ? " waits at " : " wait at ") + std::string(fibers_[i]->waits_for) + at(fibers_[i]->place);
      }
      i = end;
      if (text.size() > 600 && i < block_.threads) {
        text += ", …";
        break;
      }
    }
    const char* what =
        block_.arrived > 0 && block_.arrived + block_.ended == block_.threads ? "divergent barrier: " : "deadlock: ";
    return {kernel_name(launch_->kernel) + ", block " + coordinates(block_.index, block_.grid) + ": " + what + text};
  }

  void drop_copies(Fiber& fiber) {
    for (const AsyncCopy& copy : fiber.copies) {
      if (!fiber.shadow) break;
      Shadow* shadow = shadow_.data() + (static_cast<unsigned char*>(copy.to) - shared_) / kGranule;
      for (int i = 0; i < copy.bytes / kGranule; ++i) shadow[i] = {};
    }
    fiber.copies.clear();
    fiber.groups.clear();
  }

  const Launch* launch_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  Block block_;
  Warp warps_[kMaxThreads / kLanes];
  Warp* warp_ = nullptr;  // the running warp
  std::vector<std::unique_ptr<Fiber>> fibers_;
  uint8_t orders_[kOrders][kLanes], order_[kLanes] = {}, position_[kLanes] = {};
  unsigned char* shared_;
  std::vector<Shadow> shadow_;
  uint32_t interval_ = 0;
  const bool check_all_ = std::getenv("OPENALPACA_EMULATOR_CHECK") != nullptr;
  std::map<const void*, uint64_t> blocks_run_;  // per kernel
  uint64_t random_ = kSeed;
  std::optional<KernelError> error_;  // the launch's first error
  void* main_stack_pointer_ = nullptr;
  [[maybe_unused]] void* main_fake_stack_ = nullptr;
  [[maybe_unused]] const void* main_stack_ = nullptr;
  [[maybe_unused]] size_t main_stack_bytes_ = 0;
  size_t page_ = 4096;
  std::vector<std::pair<void*, size_t>> mapped_;
};

OPENALPACA_FIBER_LOCAL Runner* running = nullptr;  // set once this thread has run a kernel

Runner& runner() { return *running; }

void Runner::enter() { runner().live(); }

std::string number_of(int64_t count, const char* what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

// The piece and the element of it at an address: "tile"[12].
std::string name_shared(const void* at) {
  const Block& block = runner().block();
  const int64_t offset = static_cast<const unsigned char*>(at) - current->shared;
  for (int i = 0; i < block.piece_count; ++i) {
    const Piece& piece = block.pieces[i];
    if (offset < piece.begin || offset >= piece.begin + piece.bytes) continue;
    return "\"" + std::string(piece.name) + "\"[" + std::to_string((offset - piece.begin) / piece.element) + "]";
  }
  return "byte " + std::to_string(offset) + " of shared memory";
}

std::string thread_of(uint64_t stamp) {
  return "thread " + runner().name_thread(static_cast<int>(stamp & kThreadMask));
}

uint64_t syncs(uint64_t stamp) { return stamp >> 12 & 0xfffff; }

// Whether an access is ordered before this one, given that no barrier lies between them.
bool ordered(uint64_t stamp) {
  const Fiber& me = *current;
  if ((stamp & kThreadMask) == (me.stamp & kThreadMask)) return true;
  return (stamp & kThreadMask) / kLanes == static_cast<uint64_t>(me.index / kLanes) && syncs(stamp) < syncs(me.stamp);
}

[[noreturn]] void fail_race(const char* did, const void* at, const std::string& other) {
  fail(std::string(did) + " " + name_shared(at) + " that " + other + " with no barrier between");
}

[[noreturn]] void fail_pending(const char* did, const void* at, uint64_t stamp) {
  fail(std::string(did) + " " + name_shared(at) + " while a cp.async of " + thread_of(stamp) +
       " to it is under way: it needs a cp_async_wait first");
}

// Whether a shadow's recorded reads are ordered before a write of this thread.
void check_readers(const Shadow& shadow, const void* at) {
  const uint64_t read = shadow.read;
  if (read < current->interval) return;
  if (read & kSeveralWarps) fail_race("writes", at, "threads of several warps read");
  if (read & kSeveralLanes) {
    // The same warp must have executed a __syncwarp after the last of them.
    const bool same_warp = (read & kThreadMask) / kLanes == static_cast<uint64_t>(current->index / kLanes);
    if (!same_warp || syncs(read) >= syncs(current->stamp)) {
      fail_race("writes", at, "several lanes of the warp of " + thread_of(read) + " read");
    }
  } else if (!ordered(read)) {
    fail_race("writes", at, thread_of(read) + " read");
  }
}

}  // namespace

namespace {

// With OPENALPACA_EMULATOR_PROFILE set: time and launches of each kernel, printed when the process ends.
class Profile {
 public:
  ~Profile() {
    std::vector<std::pair<double, std::string>> lines;
    for (const auto& [kernel, use] : uses_) {
      char text[64];
      std::snprintf(text, sizeof(text), "%9.3f s %8d launches  ", use.seconds, use.launches);
      lines.emplace_back(use.seconds, text + kernel_name(kernel));
    }
    std::sort(lines.rbegin(), lines.rend());
    for (const auto& [seconds, line] : lines) std::fprintf(stderr, "%s\n", line.c_str());
  }
  bool on() const { return on_; }
  void add(const void* kernel, double seconds) {
    const std::lock_guard lock(mutex_);
    uses_[kernel].seconds += seconds;
    ++uses_[kernel].launches;
  }

 private:
  struct Use {
    double seconds = 0;
    int launches = 0;
  };
  const bool on_ = std::getenv("OPENALPACA_EMULATOR_PROFILE") != nullptr;
  std::mutex mutex_;
  std::map<const void*, Use> uses_;
};
Profile profile;

}  // namespace

void run(const Launch& launch, const std::function<void()>& body) {
  // On the heap: the library's thread-local variables must fit into the program's remaining static TLS space.
  static thread_local const auto mine = std::make_unique<Runner>();
  running = mine.get();
  if (!profile.on()) return runner().run(launch, body);
  const auto start = std::chrono::steady_clock::now();
  runner().run(launch, body);
  profile.add(launch.kernel, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

void fail(const std::string& text) {
  throw KernelError{kernel_name(runner().launch().kernel) + ", " + runner().where() + ": " + text};
}

void barrier(Place place) { runner().barrier(place); }

int barrier_count(bool predicate, Place place) {
  int& count = current->block->count[current->block->interval & 1];
  count += predicate;
  runner().barrier(place);
  return count;
}

void sync_warp(Place place) {
  if (runner().arrive("__syncwarp", nullptr, place)) {
    ++current->warp->syncs;
    runner().release(*current->warp);
  }
  runner().stamp(*current);
}

bool arrive(const char* what, void* mine, Place place) { return runner().arrive(what, mine, place); }
void release(Warp& warp) { runner().release(warp); }

// ---- shared memory --------------------------------------------------------------------------------------------------

void read_slowly(Shadow& shadow, const void* at) {
  Fiber& me = *current;
  const uint64_t write = shadow.write;
  if (write >= kPendingStamp) fail_pending("reads", at, write);
  if (write < me.start) fail("reads " + name_shared(at) + ", which is uninitialized");
  if (write >= me.interval && !ordered(write)) fail_race("reads", at, thread_of(write) + " wrote");
  // A later write must be ordered after this read: the last read represents all earlier ones that are ordered before
  // it.
  const uint64_t read = shadow.read;
  uint64_t flags = 0;
  if (read >= me.interval) {
    const bool same_warp = (read & kThreadMask) / kLanes == static_cast<uint64_t>(me.index / kLanes);
    if (read & kSeveralWarps || !same_warp) {
      flags = kSeveralWarps;
    } else if (syncs(read) == syncs(me.stamp)) {
      flags = (read & kThreadMask) == (me.stamp & kThreadMask) ? read & kSeveralLanes : kSeveralLanes;
    }
  }
  shadow.read = me.stamp | flags;
}

void write_slowly(Shadow& shadow, const void* at, bool atomic) {
  Fiber& me = *current;
  const char* did = atomic ? "changes" : "writes";
  const uint64_t write = shadow.write;
  if (write >= kPendingStamp) fail_pending(did, at, write);
  if (atomic && write < me.start) fail("changes " + name_shared(at) + ", which is uninitialized");
  if (write >= me.interval && !(atomic && write & kAtomic) && !ordered(write)) {
    fail_race(did, at, thread_of(write) + " wrote");
  }
  check_readers(shadow, at);
  shadow.write = me.stamp | (atomic ? kAtomic : 0);
  shadow.read = 0;
}

void fail_shared_bounds(const Piece& piece, int64_t offset, int bytes) {
  const int64_t element = (offset - piece.begin) / piece.element - ((offset - piece.begin) % piece.element < 0 ? 1 : 0);
  std::string text = "\"" + std::string(piece.name) + "\"[" + std::to_string(element) + "]";
  if (bytes > piece.element) text = number_of(bytes / piece.element, "element") + " from " + text + " on";
  fail("outside of shared memory: " + text + ", which has " + number_of(piece.bytes / piece.element, "element"));
}

void fail_global_bounds(int argument, int64_t element, int64_t count, int bytes, int elements) {
  std::string text = "element " + std::to_string(element);
  if (elements > 1) text = number_of(elements, "element") + " from " + std::to_string(element) + " on";
  const std::string of =
      argument > 0 ? " of kernel argument " + std::to_string(argument) : std::string(" of a piece of device memory");
  fail("outside of device memory: " + text + of + ", which has " + number_of(count, "element") + " of " +
       number_of(bytes, "byte"));
}

void fail_alignment(const char* what, const void* at, int bytes) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  fail(std::string("misaligned: an access of ") + std::to_string(bytes) + " bytes to " + what +
       " memory at an address that is " + std::to_string(address % static_cast<uintptr_t>(bytes)) +
       " past a multiple of them");
}

const Piece* take_piece(int number, int64_t begin, int64_t bytes, int element, const char* name) {
  return runner().take_piece(number, begin, bytes, element, name);
}

// ---- cp.async -------------------------------------------------------------------------------------------------------

void async_copy(void* to, const void* from, int bytes) {
  check_write(to, bytes);
  Shadow* shadow = shadow_of(to);
  for (int i = 0; current->shadow && i < bytes / kGranule; ++i)
    shadow[i].write = kPendingStamp | static_cast<uint64_t>(current->index);
  current->copies.push_back({to, from, bytes});
}

void async_commit() { current->groups.push_back(current->copies.size()); }

void async_wait(size_t pending) {
  Fiber& me = *current;
  if (me.groups.size() <= pending) return;
  const size_t groups = me.groups.size() - pending, done = me.groups[groups - 1];
  for (size_t i = 0; i < done; ++i) {
    const AsyncCopy& copy = me.copies[i];
    if (copy.from) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
    Shadow* shadow = shadow_of(copy.to);
    for (int k = 0; me.shadow && k < copy.bytes / kGranule; ++k) shadow[k] = {me.stamp, 0};
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<int64_t>(done));
  me.groups.erase(me.groups.begin(), me.groups.begin() + static_cast<int64_t>(groups));
  for (size_t& end : me.groups) end -= done;
}

}  // namespace openalpaca::emulator
