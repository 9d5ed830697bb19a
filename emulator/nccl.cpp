// A fake NCCL for ranks that are threads of one process: the tests' libnccl.so.2, so that cuda/runtime/library.cpp and
// collectives/nccl.cpp run unchanged. A collective waits on its stream until all ranks have reached it, and is computed
// when the last one arrives; sums are in float32, in rank order, rounded once.
//
// OPENALPACA_NCCL_TWIN, read when a collective is enqueued, makes it fail: "remote error" is reported by
// ncclCommGetAsyncError while the collective hangs; "refused" makes the call itself fail. Like NCCL's non-blocking
// communicators, calls return ncclInProgress first.
#include <cuda_bf16.h>
#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

// One rank's part in a collective.
struct Part {
  const void* in;
  void* out;
};

// A collective that some ranks have reached.
struct Meeting {
  std::vector<Part> parts;
  int arrived = 0;
  bool done = false;
};

// The ranks that share one unique id.
struct Clique {
  std::mutex mutex;
  std::condition_variable changed;
  int joined = 0;
  std::map<uint64_t, Meeting> meetings;  // by number
};

std::mutex cliques_mutex;
std::map<std::string, std::shared_ptr<Clique>> cliques;

std::string fault() {
  const char* text = std::getenv("OPENALPACA_NCCL_TWIN");
  return text ? text : "";
}

size_t size_of(ncclDataType_t type) { return type == ncclBfloat16 ? 2 : 4; }

template <class T>
float load(const void* from, size_t i) {
  if constexpr (sizeof(T) == 4) {
    return static_cast<const float*>(from)[i];
  } else {
    return __bfloat162float(static_cast<const __nv_bfloat16*>(from)[i]);
  }
}
template <class T>
void store(void* to, size_t i, float x) {
  if constexpr (sizeof(T) == 4) {
    static_cast<float*>(to)[i] = x;
  } else {
    static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16(x);
  }
}

// out[i] = the sum over ranks of in[first + i].
template <class T>
void add(const std::vector<Part>& parts, std::vector<char>& out, size_t first, size_t count) {
  out.resize(count * sizeof(T));
  for (size_t i = 0; i < count; ++i) {
    float sum = load<T>(parts[0].in, first + i);
    for (size_t rank = 1; rank < parts.size(); ++rank) sum += load<T>(parts[rank].in, first + i);
    store<T>(out.data(), i, sum);
  }
}
void add(ncclDataType_t type, const std::vector<Part>& parts, std::vector<char>& out, size_t first, size_t count) {
  type == ncclBfloat16 ? add<__nv_bfloat16>(parts, out, first, count) : add<float>(parts, out, first, count);
}

}  // namespace

struct ncclComm {
  std::shared_ptr<Clique> clique;
  int rank, size;
  std::atomic<bool> connected = false, aborted = false, broken = false;
  std::atomic<int> in_progress = -1;  // how many more times ncclCommGetAsyncError returns it, before it succeeds once
  uint64_t collectives = 0;

  // The last rank to arrive runs `compute` for all.
  ncclResult_t enqueue(Part part, cudaStream_t stream, std::function<void(const std::vector<Part>&)> compute) {
    if (in_progress > 0 || !connected) return ncclInvalidUsage;  // the previous call is still in progress
    if (fault() == "refused") return ncclInvalidArgument;
    broken = fault() == "remote error";
    in_progress = 3;
    const auto work = [this, part, compute, number = collectives++] {
      std::unique_lock lock(clique->mutex);
      if (broken) clique->changed.wait(lock, [&] { return aborted.load(); });
      if (aborted) return;
      Meeting& meeting = clique->meetings[number];
      meeting.parts.resize(size);
      meeting.parts[rank] = part;
      if (++meeting.arrived == size) {
        compute(meeting.parts);
        meeting.done = true;
        clique->changed.notify_all();
      }
      clique->changed.wait(lock, [&] { return meeting.done || aborted; });
    };
    return openalpaca::emulator::enqueue(stream, work) == cudaSuccess ? ncclInProgress : ncclUnhandledCudaError;
  }
};

ncclResult_t ncclGetVersion(int* version) {
  *version = 12345;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<int> number = 0;
  *id = {};
  const std::string text = "fake " + std::to_string(++number);
  std::memcpy(id->internal, text.data(), text.size());
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInvalidArgument:
      return "invalid argument";
    default:
      return "an error that the fake does not implement";
  }
}
const char* ncclGetLastError(ncclComm_t) { return "from the fake NCCL"; }

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidUsage;  // it would wait forever for a rank that has gone
  auto* created = new ncclComm;
  created->rank = rank;
  created->size = size;
  {
    const std::lock_guard lock(cliques_mutex);
    auto& clique = cliques[id.internal];
    if (!clique) clique = std::make_shared<Clique>();
    created->clique = clique;
  }
  const std::lock_guard lock(created->clique->mutex);
  ++created->clique->joined;
  *communicator = created;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* error) {
  *error = ncclSuccess;
  if (!communicator->connected) {
    const std::lock_guard lock(communicator->clique->mutex);
    communicator->connected = communicator->clique->joined == communicator->size;
    if (!communicator->connected) *error = ncclInProgress;
  } else if (communicator->in_progress >= 0) {
    if (communicator->in_progress-- > 0) *error = ncclInProgress;
  } else if (communicator->broken) {
    *error = ncclRemoteError;
  }
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  {
    const std::lock_guard lock(communicator->clique->mutex);
    communicator->aborted = true;
    communicator->clique->changed.notify_all();
  }
  // Work still queued on the stream checks `aborted`, so the memory must stay.
  return ncclSuccess;
}

ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type, ncclComm_t communicator,
                           cudaStream_t stream) {
  return communicator->enqueue({in, out}, stream, [bytes = count * size_of(type)](const std::vector<Part>& parts) {
    for (const Part& to : parts) {
      for (size_t from = 0; from < parts.size(); ++from) {
        std::memmove(static_cast<char*>(to.out) + from * bytes, parts[from].in, bytes);
      }
    }
  });
}

ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t communicator, cudaStream_t stream) {
  return communicator->enqueue({in, out}, stream, [count, type](const std::vector<Part>& parts) {
    std::vector<std::vector<char>> sums(parts.size());  // compute all first: out may alias a part of in
    for (size_t rank = 0; rank < parts.size(); ++rank) add(type, parts, sums[rank], rank * count, count);
    for (size_t rank = 0; rank < parts.size(); ++rank) {
      std::memcpy(parts[rank].out, sums[rank].data(), sums[rank].size());
    }
  });
}

ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type, ncclRedOp_t,
                           ncclComm_t communicator, cudaStream_t stream) {
  return communicator->enqueue({in, out}, stream, [count, type](const std::vector<Part>& parts) {
    std::vector<char> sum;
    add(type, parts, sum, 0, count);
    for (const Part& to : parts) std::memcpy(to.out, sum.data(), sum.size());
  });
}

ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t communicator, cudaStream_t stream) {
  return communicator->enqueue({in, out}, stream,
                               [bytes = count * size_of(type), root](const std::vector<Part>& parts) {
                                 for (const Part& to : parts) std::memmove(to.out, parts[root].in, bytes);
                               });
}
