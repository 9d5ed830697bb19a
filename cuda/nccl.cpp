// A collective of NCCL is a kernel that waits for the other ranks: when one of them is lost it waits for ever, and its
// stream with it. So communicators are non-blocking, and a thread watches them: for errors that NCCL has found
// (ncclCommGetAsyncError), for collectives that take longer than they may, and for abort(). Then it aborts the
// communicator, which lets the kernels go, and poisons the stream, whose data are not what they should be.
//
// Sums are NCCL's own: in the dtype of the operands, and in an order that depends on the number of ranks. For one
// number of ranks on one machine it is the same on every run.
#include "cuda/nccl.h"

#include <nccl.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "cuda/library.h"

namespace openalpaca::cuda {
namespace {

using Clock = std::chrono::steady_clock;

const LibraryNames kNames = {"NCCL", {"libnccl.so.2"}, {"nvidia/nccl/lib"}, "nvidia-nccl-cu13"};

#define OPENALPACA_NCCL(X)  \
  X(ncclGetUniqueId)        \
  X(ncclGetErrorString)     \
  X(ncclGetLastError)       \
  X(ncclCommInitRankConfig) \
  X(ncclCommGetAsyncError)  \
  X(ncclCommAbort)          \
  X(ncclCommDestroy)        \
  X(ncclAllGather)          \
  X(ncclReduceScatter)      \
  X(ncclAllReduce)          \
  X(ncclBroadcast)

// The functions that we call, with the types of their declarations.
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

// Opened once; where that fails, the next call tries again.
const Functions& nccl() {
  static const Functions functions;
  return functions;
}

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw Error("CUDA_ERROR", std::string(what) + ": " + cudaGetErrorString(status));
}

ncclDataType_t type_of(const Tensor& tensor) {
  return tensor.dtype == DType::bfloat16 ? ncclBfloat16 : ncclFloat32;  // the binding lets no other pass
}

// A collective on its way: from `start` until `end` has passed.
struct Running {
  const char* name;
  NativeStream* stream;
  std::shared_ptr<CUevent_st> end;
  Clock::time_point start;
};

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(int ordinal, int rank, int size, std::chrono::milliseconds timeout)
      : ordinal_(ordinal), rank_(rank), size_(size), timeout_(timeout) {
    if (rank == 0) verify(nccl().ncclGetUniqueId(&id_), "ncclGetUniqueId");
    check(cudaSetDevice(ordinal), "cudaSetDevice");
    check(cudaMalloc(&barrier_, sizeof(float)), "cudaMalloc");
    check(cudaMemset(barrier_, 0, sizeof(float)), "cudaMemset");
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclCommunicator() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_one();
    watcher_.join();
    if (communicator_) failure_ ? nccl().ncclCommAbort(communicator_) : nccl().ncclCommDestroy(communicator_);
    cudaFree(barrier_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  // Rank 0's is NCCL's unique id; the others' are of the same length and not used.
  Address address() const override {
    Address bytes(sizeof id_);
    std::memcpy(bytes.data(), &id_, sizeof id_);
    return bytes;
  }

  // Waits for all ranks, and so belongs on a thread that may wait: setting up happens once.
  void connect(Stream& stream, const std::vector<Address>& addresses) override {
    enqueue(stream, "connect", {}, [this, &addresses](cudaStream_t) {
      ncclUniqueId id;
      std::memcpy(&id, addresses[0].data(), sizeof id);
      ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
      config.blocking = 0;
      check(cudaSetDevice(ordinal_), "cudaSetDevice");
      const ncclResult_t status = nccl().ncclCommInitRankConfig(&communicator_, size_, id, rank_, &config);
      settle(status, "ncclCommInitRankConfig");
    });
  }

  void all_gather(Stream& stream, const Tensor& out, const Tensor& in) override {
    enqueue(stream, "all_gather", {out, in}, [&](cudaStream_t on) {
      return nccl().ncclAllGather(in.raw(), out.raw(), in.numel(), type_of(in), communicator_, on);
    });
  }
  void reduce_scatter(Stream& stream, const Tensor& out, const Tensor& in) override {
    enqueue(stream, "reduce_scatter", {out, in}, [&](cudaStream_t on) {
      return nccl().ncclReduceScatter(in.raw(), out.raw(), out.numel(), type_of(in), ncclSum, communicator_, on);
    });
  }
  void all_reduce(Stream& stream, const Tensor& x) override {
    enqueue(stream, "all_reduce", {x}, [&](cudaStream_t on) {
      return nccl().ncclAllReduce(x.raw(), x.raw(), x.numel(), type_of(x), ncclSum, communicator_, on);
    });
  }
  void broadcast(Stream& stream, const Tensor& x, int root) override {
    enqueue(stream, "broadcast", {x}, [&](cudaStream_t on) {
      return nccl().ncclBroadcast(x.raw(), x.raw(), x.numel(), type_of(x), root, communicator_, on);
    });
  }
  void barrier(Stream& stream) override {
    enqueue(stream, "barrier", {}, [&](cudaStream_t on) {
      return nccl().ncclAllReduce(barrier_, barrier_, 1, ncclFloat32, ncclSum, communicator_, on);
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
  // `call` enqueues on the CUDA stream and may return NCCL's status.
  template <class F>
  void enqueue(Stream& stream, const char* name, const std::vector<Tensor>& operands, F&& call) {
    auto& native = dynamic_cast<NativeStream&>(stream);
    native.native(name, operands, [&](cudaStream_t on) {
      std::lock_guard calling(calls_);
      throw_failure();
      if constexpr (std::is_void_v<decltype(call(on))>) {
        call(on);
      } else {
        settle(call(on), name);
        cudaEvent_t event = nullptr;
        check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
        const std::shared_ptr<CUevent_st> end(event, [](cudaEvent_t e) { cudaEventDestroy(e); });
        check(cudaEventRecord(event, on), "cudaEventRecord");
        {
          std::lock_guard lock(mutex_);
          running_.push_back({name, &native, end, Clock::now()});
        }
        changed_.notify_one();
      }
    });
  }

  void throw_failure() {
    std::lock_guard lock(mutex_);
    if (failure_) throw *failure_;
  }

  static std::string explain(ncclResult_t status, ncclComm_t communicator, const char* what) {
    return std::string(what) + ": " + nccl().ncclGetErrorString(status) + " (" + nccl().ncclGetLastError(communicator) +
           ")";
  }
  void verify(ncclResult_t status, const char* what) const {
    if (status != ncclSuccess) throw Error("NCCL_ERROR", explain(status, communicator_, what));
  }

  // A call of a non-blocking communicator may still be under way when it returns.
  void settle(ncclResult_t status, const char* what) {
    const auto deadline = Clock::now() + timeout_;
    while (status == ncclInProgress) {
      throw_failure();
      if (Clock::now() > deadline) {
        throw Error("COLLECTIVE_TIMEOUT", std::string(what) + ": not all of the " + std::to_string(size_) +
                                              " ranks arrived in time; look for what they are doing, or raise "
                                              "collective_timeout");
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      verify(nccl().ncclCommGetAsyncError(communicator_, &status), what);
    }
    verify(status, what);
  }

  void watch() {
    cudaSetDevice(ordinal_);
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      changed_.wait_for(lock, std::chrono::milliseconds(running_.empty() ? 1000 : 20));
      while (!running_.empty() && cudaEventQuery(running_.front().end.get()) == cudaSuccess) {
        running_.pop_front();
        if (!running_.empty()) running_.front().start = Clock::now();  // it has waited for the one before
      }
      if (running_.empty()) continue;
      if (!failure_) failure_ = find_failure(running_.front());
      if (!failure_) continue;
      // No call may be using the communicator; one that waits sees the failure and ends.
      lock.unlock();
      std::lock_guard calling(calls_);
      lock.lock();
      // Lets the kernels go that wait for the other ranks.
      nccl().ncclCommAbort(std::exchange(communicator_, nullptr));
      for (const Running& running : running_) running.stream->poison(*failure_);
      running_.clear();
    }
  }

  std::optional<Error> find_failure(const Running& oldest) const {
    ncclResult_t status = ncclSuccess;
    nccl().ncclCommGetAsyncError(communicator_, &status);
    if (status != ncclSuccess && status != ncclInProgress) {
      const char* code = status == ncclRemoteError || status == ncclSystemError ? "RANK_LOST" : "NCCL_ERROR";
      return Error(code, explain(status, communicator_, oldest.name));
    }
    if (Clock::now() - oldest.start < timeout_) return std::nullopt;
    return Error("COLLECTIVE_TIMEOUT", std::string(oldest.name) + ": not all of the " + std::to_string(size_) +
                                           " ranks arrived within " + std::to_string(timeout_.count() / 1000) +
                                           " s; look for what they are doing, or raise collective_timeout");
  }

  const int ordinal_, rank_, size_;
  const std::chrono::milliseconds timeout_;
  ncclUniqueId id_ = {};
  ncclComm_t communicator_ = nullptr;
  void* barrier_ = nullptr;  // one number, for all to add up
  std::mutex calls_;         // held while the communicator is used; taken before mutex_
  std::mutex mutex_;         // guards what follows
  std::condition_variable changed_;
  std::optional<Error> failure_;
  std::deque<Running> running_;
  bool stopping_ = false;
  std::thread watcher_;  // last: starts when the rest is ready
};

}  // namespace

std::shared_ptr<Communicator> make_nccl(int ordinal, int rank, int size, std::chrono::milliseconds timeout) {
  return std::make_shared<NcclCommunicator>(ordinal, rank, size, timeout);
}

}  // namespace openalpaca::cuda
