// An NCCL collective is a kernel that waits for the other ranks: if one of them is lost, it waits forever, and so does
// its stream. So communicators are non-blocking, and a watcher thread checks for errors that NCCL has detected
// (ncclCommGetAsyncError), for collectives that exceed the timeout, and for abort(). It then reports the error to the
// stream, whose data are invalid, and aborts the communicator, which ends the kernels.
//
// Sums are NCCL's own: in the dtype of the operands, and in an order that depends on the number of ranks. For a given
// number of ranks on one machine they are the same on every run.
#include "collectives/nccl.h"

#include <nccl.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "cuda/runtime/library.h"

namespace openalpaca::cuda {
namespace {

using Clock = std::chrono::steady_clock;

const LibraryNames kNames = {
    "NCCL", {"libnccl.so.2"}, {"nvidia/nccl/lib"}, "nvidia-nccl-cu13", "; or use --backend gloo, which is slower"};

#define OPENALPACA_NCCL(X)  \
  X(ncclGetVersion)         \
  X(ncclGetUniqueId)        \
  X(ncclGetErrorString)     \
  X(ncclGetLastError)       \
  X(ncclCommInitRankConfig) \
  X(ncclCommGetAsyncError)  \
  X(ncclCommAbort)          \
  X(ncclAllGather)          \
  X(ncclReduceScatter)      \
  X(ncclAllReduce)          \
  X(ncclBroadcast)

// The NCCL functions in use, with their declared types.
struct Functions {
#define OPENALPACA_MEMBER(name) decltype(&::name) name;
  OPENALPACA_NCCL(OPENALPACA_MEMBER)
#undef OPENALPACA_MEMBER

  Functions() {
    void* library = open_library(kNames);
#define OPENALPACA_FIND(name) name = reinterpret_cast<decltype(name)>(find_function(library, kNames, #name));
    OPENALPACA_NCCL(OPENALPACA_FIND)
#undef OPENALPACA_FIND
  }
};

// Opened once; after a failure, the next call tries again.
const Functions& nccl() {
  static const Functions functions;
  return functions;
}

ncclDataType_t type_of(const Tensor& tensor) {
  return tensor.dtype == DType::bfloat16 ? ncclBfloat16 : ncclFloat32;  // the binding rejects other dtypes
}

std::string explain(ncclResult_t status, ncclComm_t communicator, const char* what) {
  const std::string details = nccl().ncclGetLastError(communicator);
  return std::string(what) + ": " + nccl().ncclGetErrorString(status) + (details.empty() ? "" : " (" + details + ")");
}

// Maps a status to an error: a rank that has gone shows up as a broken connection.
Error error_of(ncclResult_t status, ncclComm_t communicator, const char* what) {
  const bool lost = status == ncclRemoteError || status == ncclSystemError;
  return Error(lost ? "RANK_LOST" : "NCCL_ERROR", explain(status, communicator, what));
}

// A collective in progress.
struct Running {
  const char* name;
  std::shared_ptr<HostErrors> errors;
  CudaEvent begin{cudaEventDisableTiming}, end{cudaEventDisableTiming};
  std::optional<Clock::time_point> begun;  // when its start was observed: earlier waits on this GPU do not count
};

class NcclCommunicator : public Communicator, public std::enable_shared_from_this<NcclCommunicator> {
 public:
  NcclCommunicator(std::shared_ptr<const Context> context, int rank, int size, std::chrono::milliseconds timeout)
      : context_(std::move(context)), rank_(rank), size_(size), timeout_(timeout) {
    const Functions& functions = nccl();  // fails early on every rank if NCCL is missing
    context_->activate("communicator");
    if (rank == 0) verify(functions.ncclGetUniqueId(&id_), "ncclGetUniqueId");
    barrier_ = context_->allocate(sizeof(float));
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclCommunicator() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    watcher_.join();
    // Not ncclCommDestroy, which waits for the machine's other ranks: they may have gone.
    if (communicator_) nccl().ncclCommAbort(communicator_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  // Rank 0's address is NCCL's unique id; the others have the same length and are unused.
  Address address() const override {
    Address bytes(sizeof id_);
    std::memcpy(bytes.data(), &id_, sizeof id_);
    return bytes;
  }

  void connect(const std::vector<Address>& addresses) override {
    std::lock_guard calling(calls_);
    context_->activate("connect");
    ncclUniqueId id;
    std::memcpy(&id, addresses[0].data(), sizeof id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    settle(nccl().ncclCommInitRankConfig(&communicator_, size_, id, rank_, &config), "connect");
  }

  void all_gather(Stream& stream, const Tensor& out, const Tensor& in) override {
    enqueue(stream, "all_gather", {out.storage, in.storage}, [&](cudaStream_t on) {
      return nccl().ncclAllGather(in.raw(), out.raw(), in.numel(), type_of(in), communicator_, on);
    });
  }
  void reduce_scatter(Stream& stream, const Tensor& out, const Tensor& in) override {
    enqueue(stream, "reduce_scatter", {out.storage, in.storage}, [&](cudaStream_t on) {
      return nccl().ncclReduceScatter(in.raw(), out.raw(), out.numel(), type_of(in), ncclSum, communicator_, on);
    });
  }
  void all_reduce(Stream& stream, const Tensor& x) override {
    enqueue(stream, "all_reduce", {x.storage}, [&](cudaStream_t on) {
      return nccl().ncclAllReduce(x.raw(), x.raw(), x.numel(), type_of(x), ncclSum, communicator_, on);
    });
  }
  void broadcast(Stream& stream, const Tensor& x, int root) override {
    enqueue(stream, "broadcast", {x.storage}, [&](cudaStream_t on) {
      return nccl().ncclBroadcast(x.raw(), x.raw(), x.numel(), type_of(x), root, communicator_, on);
    });
  }
  // A sum whose result is unused.
  void barrier(Stream& stream) override {
    enqueue(stream, "barrier", {}, [&](cudaStream_t on) {
      void* x = barrier_->data();
      return nccl().ncclAllReduce(x, x, 1, ncclFloat32, ncclSum, communicator_, on);
    });
  }

  void abort(const Error& reason) override {
    {
      std::lock_guard lock(mutex_);
      if (!failure_) failure_ = reason;
    }
    changed_.notify_one();
  }

 private:
  // `call` enqueues on the CUDA stream and returns NCCL's status.
  template <class F>
  void enqueue(Stream& stream, const char* name, std::vector<std::shared_ptr<void>> kept, F&& call) {
    kept.push_back(shared_from_this());
    auto& native = dynamic_cast<NativeStream&>(stream);
    native.native(name, kept, [&](cudaStream_t on, const std::shared_ptr<HostErrors>& errors) {
      std::lock_guard calling(calls_);
      throw_failure();
      if (!communicator_) throw Error("NOT_CONNECTED", std::string(name) + ": the communicator is not connected");
      auto running = std::make_unique<Running>();
      running->name = name;
      running->errors = errors;
      try {
        check(cudaEventRecord(running->begin.get(), on), name);
        settle(call(on), name);
        check(cudaEventRecord(running->end.get(), on), name);
      } catch (const Error& error) {
        give_up(error);  // there may be a kernel that never ends
        throw;
      }
      {
        std::lock_guard lock(mutex_);
        running_.push_back(std::move(running));
      }
      changed_.notify_one();
    });
  }

  // The caller holds calls_. A thread that waits for a stream must find the error, so it is stored before the kernels
  // are aborted.
  void give_up(const Error& error) {
    {
      std::lock_guard lock(mutex_);
      if (!failure_) failure_ = error;
      for (const auto& running : running_) running->errors->add(std::make_exception_ptr(*failure_));
      running_.clear();
    }
    if (communicator_) nccl().ncclCommAbort(std::exchange(communicator_, nullptr));
  }

  void throw_failure() {
    std::lock_guard lock(mutex_);
    if (failure_) throw *failure_;
  }

  void verify(ncclResult_t status, const char* what) const {
    if (status != ncclSuccess) throw error_of(status, communicator_, what);
  }

  // A call of a non-blocking communicator may return while still in progress: connecting waits for the other ranks;
  // enqueueing finishes on an NCCL thread within microseconds.
  void settle(ncclResult_t status, const char* what) {
    const auto start = Clock::now();
    while (status == ncclInProgress) {
      throw_failure();
      const auto waited = Clock::now() - start;
      if (waited > timeout_) throw timeout(what);
      if (waited > std::chrono::milliseconds(1)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      verify(nccl().ncclCommGetAsyncError(communicator_, &status), what);
    }
    verify(status, what);
  }

  // NCCL does not report which ranks are missing.
  Error timeout(const char* what) const {
    const std::string seconds = std::to_string(std::chrono::duration<double>(timeout_).count());
    return Error("COLLECTIVE_TIMEOUT", std::string(what) + ": not all of the " + std::to_string(size_) +
                                           " ranks arrived within " + seconds.substr(0, seconds.find('.') + 2) +
                                           " s: check whether one hangs, or raise collective_timeout");
  }

  void watch() {
    cudaSetDevice(context_->ordinal);
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      if (running_.empty()) {
        changed_.wait(lock);
      } else {
        changed_.wait_for(lock, std::chrono::milliseconds(20));
      }
      while (!failure_ && !running_.empty() && cudaEventQuery(running_.front()->end.get()) == cudaSuccess) {
        running_.pop_front();
      }
      if (running_.empty()) continue;
      if (!failure_) failure_ = find_failure(*running_.front());
      if (!failure_) continue;
      // No call may be using the communicator; a waiting one sees the failure and returns.
      const Error failure = *failure_;
      lock.unlock();
      {
        std::lock_guard calling(calls_);
        give_up(failure);
      }
      lock.lock();
    }
  }

  std::optional<Error> find_failure(Running& oldest) const {
    ncclResult_t status = ncclSuccess;
    const ncclResult_t answer = nccl().ncclCommGetAsyncError(communicator_, &status);
    if (answer != ncclSuccess) status = answer;
    if (status != ncclSuccess && status != ncclInProgress) return error_of(status, communicator_, oldest.name);
    const cudaError_t state = cudaEventQuery(oldest.end.get());
    if (state != cudaSuccess && state != cudaErrorNotReady) {
      return Error("DEVICE_LOST", std::string(oldest.name) + ": " + cudaGetErrorString(state));
    }
    if (!oldest.begun && cudaEventQuery(oldest.begin.get()) == cudaSuccess) oldest.begun = Clock::now();
    if (!oldest.begun || Clock::now() - *oldest.begun < timeout_) return std::nullopt;
    return timeout(oldest.name);
  }

  const std::shared_ptr<const Context> context_;
  const int rank_, size_;
  const std::chrono::milliseconds timeout_;
  ncclUniqueId id_ = {};
  std::shared_ptr<Storage> barrier_;  // one number, summed over all ranks
  std::mutex calls_;                  // held while the communicator is used; lock before mutex_
  ncclComm_t communicator_ = nullptr;
  std::mutex mutex_;  // guards the members below
  std::condition_variable changed_;
  std::optional<Error> failure_;
  std::deque<std::unique_ptr<Running>> running_;
  bool stopping_ = false;
  std::thread watcher_;  // last: starts after the other members are initialized
};

}  // namespace

std::string nccl_version() {
  int version = 0;  // 22803
  const ncclResult_t status = nccl().ncclGetVersion(&version);
  if (status != ncclSuccess) throw error_of(status, nullptr, "ncclGetVersion");
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

std::shared_ptr<Communicator> make_nccl(std::shared_ptr<const Context> context, int rank, int size,
                                        std::chrono::milliseconds timeout) {
  return std::make_shared<NcclCommunicator>(std::move(context), rank, size, timeout);
}

}  // namespace openalpaca::cuda
