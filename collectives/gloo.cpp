// Gloo only transports the bytes; the algorithms are here, because the order of Gloo's own sums depends on the number
// of ranks and the algorithm, without guarantees. Every rank exchanges directly with every other: all terms of a sum
// then arrive in one place, to be added in rank order, and the traffic equals that of a ring.
#include "collectives/gloo.h"

#include <gloo/config.h>
#include <gloo/context.h>
#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

namespace openalpaca::cpu {
namespace {

using gloo::transport::UnboundBuffer;
using Use = HostOperand::Use;

inline float to_float(uint16_t bfloat16) {
  const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Rounds to nearest even and preserves NaN.
inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return x != x ? bits >> 16 | 0x40 : rounded;
}

// Message size in bytes within a sum: small enough for the cache, large enough for the network.
constexpr size_t kPiece = 1 << 20;

enum class Kind : uint64_t { barrier, all_gather, reduce_scatter, all_reduce, broadcast };
constexpr const char* kNames[] = {"barrier", "all_gather", "reduce_scatter", "all_reduce", "broadcast"};

// Replaces Gloo's rendezvous; the caller exchanges the addresses.
class Mesh : public gloo::Context {
 public:
  Mesh(int rank, int size, const std::string& hostname, std::chrono::milliseconds timeout) : gloo::Context(rank, size) {
    setTimeout(timeout);
    device_ = gloo::transport::tcp::CreateDevice(gloo::transport::tcp::attr(hostname.c_str()));
    transportContext_ = device_->createContext(rank, size);
    transportContext_->setTimeout(timeout);
    for (int peer = 0; peer < size; ++peer) {
      if (peer != rank) transportContext_->createPair(peer);
    }
  }

  // For each peer, the address where this rank expects that peer's connection; all have the same length.
  Communicator::Address address() {
    Communicator::Address all;
    size_t length = 0;
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const std::vector<char> bytes = getPair(peer)->address().bytes();
      length = bytes.size();
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    all.insert(all.begin() + std::min(all.size(), rank * length), length, 0);  // the rank's own slot
    return all;
  }

  void connect(const std::vector<Communicator::Address>& addresses) {
    for (int peer = 0; peer < size; ++peer) {
      if (peer == rank) continue;
      const Communicator::Address& all = addresses[peer];
      const size_t length = all.size() / size;
      getPair(peer)->connect({all.begin() + rank * length, all.begin() + (rank + 1) * length});
    }
  }
};

// The ranks' parts of a buffer, in elements.
struct Parts {
  int64_t length, step;
  int64_t begin(int rank) const { return std::min(length, rank * step); }
  int64_t count(int rank) const { return begin(rank + 1) - begin(rank); }
};

class GlooCommunicator : public Communicator, public std::enable_shared_from_this<GlooCommunicator> {
 public:
  GlooCommunicator(int rank, int size, const std::string& hostname, std::chrono::milliseconds timeout)
      : rank_(rank), size_(size), timeout_(timeout) {
    try {
      mesh_ = std::make_unique<Mesh>(rank, size, hostname, timeout);
    } catch (const std::exception& error) {
      throw Error("CONNECTION_FAILED", "rank " + std::to_string(rank) + " cannot listen for the other ranks at " +
                                           hostname + ": " + error.what());
    }
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Address address() const override { return mesh_->address(); }

  // Gloo may wait for the other ranks for five times its timeout, so this runs on a thread that can be abandoned.
  void connect(const std::vector<Address>& addresses) override {
    std::thread([self = shared_from_this(), addresses] {
      std::optional<Error> failure;
      try {
        self->mesh_->connect(addresses);
      } catch (const std::exception& error) {
        failure.emplace("CONNECTION_FAILED",
                        "rank " + std::to_string(self->rank_) + " cannot reach the other ranks: " + error.what());
      }
      std::lock_guard lock(self->mutex_);
      if (failure && !self->failure_) self->failure_ = failure;
      self->connected_ = !failure;
      self->changed_.notify_all();
    }).detach();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return connected_ || failure_; });
    if (failure_) throw *failure_;
  }

  void all_gather(Stream& stream, const Tensor& out, const Tensor& in) override {
    enqueue(stream, Kind::all_gather, {{out, Use::written}, {in, Use::read}}, [this](Exchange& exchange, auto& x) {
      const Tensor &out = x[0], &in = x[1];
      char* own = out.data<char>() + rank_ * in.bytes();
      if (own != in.raw()) std::memmove(own, in.raw(), in.bytes());
      gather(exchange, out, {out.numel(), in.numel()});
    });
  }
  void reduce_scatter(Stream& stream, const Tensor& out, const Tensor& in) override {
    enqueue(stream, Kind::reduce_scatter, {{out, Use::written}, {in, Use::read}}, [this](Exchange& exchange, auto& x) {
      const Tensor &out = x[0], &in = x[1];
      reduce(exchange, out.raw(), in, {in.numel(), out.numel()});
    });
  }
  void all_reduce(Stream& stream, const Tensor& x) override {
    enqueue(stream, Kind::all_reduce, {{x, Use::both}}, [this](Exchange& exchange, auto& operands) {
      const Tensor& x = operands[0];
      const Parts parts{x.numel(), (x.numel() + size_ - 1) / size_};
      reduce(exchange, x.data<char>() + parts.begin(rank_) * size_of(x.dtype), x, parts);
      gather(exchange, x, parts);
    });
  }
  void broadcast(Stream& stream, const Tensor& x, int root) override {
    const Use use = rank_ == root ? Use::read : Use::written;
    enqueue(stream, Kind::broadcast, {{x, use}}, [this, root](Exchange& exchange, auto& operands) {
      const Tensor& x = operands[0];
      for (int peer = 0; peer < size_; ++peer) {
        if (peer != rank_ && rank_ == root) exchange.send(peer, x.raw(), x.bytes());
      }
      if (rank_ != root) exchange.receive(root, x.raw(), x.bytes());
      exchange.finish();
    });
  }
  void barrier(Stream& stream) override {
    enqueue(stream, Kind::barrier, {}, [this](Exchange& exchange, auto&) {
      std::vector<char> bytes(size_);
      for (int peer = 0; peer < size_; ++peer) {
        if (peer == rank_) continue;
        exchange.receive(peer, &bytes[peer], 1);
        exchange.send(peer, &bytes[rank_], 1);
      }
      exchange.finish();
    });
  }

  void abort(const Error& reason) override {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = reason;
    changed_.notify_all();
    for (UnboundBuffer* buffer : in_flight_) {
      buffer->abortWaitRecv();
      buffer->abortWaitSend();
    }
  }

 private:
  // The messages of one collective. Each has its own buffer, so that the missing ranks can be identified.
  class Exchange {
   public:
    Exchange(GlooCommunicator& owner, Kind kind) : owner_(owner), kind_(kind) {
      // Makes slots unique, so that messages of different collectives never match.
      slot_ = ++owner.collectives_ << 32 | static_cast<uint64_t>(kind) << 28;
    }
    // More messages of the same phase, awaited separately.
    Exchange(const Exchange& same) : owner_(same.owner_), kind_(same.kind_), slot_(same.slot_) {}
    ~Exchange() {
      while (!messages_.empty()) drop();
    }

    void send(int peer, const void* data, size_t bytes, uint64_t piece = 0) {
      if (bytes == 0) return;
      begin(peer, [&] { start(peer, const_cast<void*>(data), bytes).send(peer, slot_ | piece); });
    }
    void receive(int peer, void* data, size_t bytes, uint64_t piece = 0) {
      if (bytes == 0) return;
      begin(peer, [&] { start(peer, data, bytes).recv(peer, slot_ | piece); });
      messages_.back().receives = true;
    }
    // Waits for all messages.
    void finish() {
      while (!messages_.empty()) {
        wait(messages_.back());
        drop();
      }
    }
    // Starts the next phase of a collective: its messages have different slots from the previous ones.
    void next_phase() { slot_ |= 1 << 27; }

   private:
    struct Message {
      int peer;
      std::unique_ptr<UnboundBuffer> buffer;
      bool receives = false;
    };

    // If the peer has already gone, even starting a transfer fails.
    template <class F>
    void begin(int peer, F&& start) {
      try {
        start();
      } catch (const Error&) {
        throw;
      } catch (const std::exception& error) {
        explain(peer, error.what());
      }
    }
    UnboundBuffer& start(int peer, void* data, size_t bytes) {
      messages_.push_back({peer, owner_.mesh_->createUnboundBuffer(data, bytes)});
      UnboundBuffer* buffer = messages_.back().buffer.get();
      std::lock_guard lock(owner_.mutex_);
      if (owner_.failure_) throw *owner_.failure_;
      owner_.in_flight_.push_back(buffer);
      return *buffer;
    }
    void drop() {
      {
        std::lock_guard lock(owner_.mutex_);
        std::erase(owner_.in_flight_, messages_.back().buffer.get());
      }
      messages_.pop_back();
    }
    static bool wait(Message& message, std::chrono::milliseconds timeout) {
      return message.receives ? message.buffer->waitRecv(nullptr, timeout) : message.buffer->waitSend(nullptr, timeout);
    }
    void wait(Message& message) {
      try {
        if (wait(message, owner_.timeout_)) return;
      } catch (const std::exception& error) {
        explain(message.peer, error.what());
      }
      std::lock_guard lock(owner_.mutex_);
      throw *owner_.failure_;
    }

    // Gloo has no exception types for the different failures. Its timeout closes all connections, but messages that had
    // already arrived remain valid.
    [[noreturn]] void explain(int peer, const std::string& message) {
      const std::string name = kNames[static_cast<int>(kind_)];
      const std::string of = " of " + std::to_string(owner_.size_);
      if (message.find("Timed out") == std::string::npos) {
        owner_.fail(
            {"RANK_LOST", name + ": rank " + std::to_string(peer) + of + " is gone (its connection was closed)"});
      }
      std::vector<int> missing;
      for (Message& other : messages_) {
        try {
          if (wait(other, std::chrono::milliseconds(1))) continue;
        } catch (const std::exception&) {}
        missing.push_back(other.peer);
      }
      std::sort(missing.begin(), missing.end());
      missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
      std::string ranks;
      for (int rank : missing) ranks += (ranks.empty() ? "" : ", ") + std::to_string(rank);
      const std::string seconds = std::to_string(std::chrono::duration<double>(owner_.timeout_).count());
      owner_.fail({"COLLECTIVE_TIMEOUT", name + ": rank " + ranks + of + " did not arrive within " +
                                             seconds.substr(0, seconds.find('.') + 2) +
                                             " s: check whether it hangs, or raise collective_timeout"});
    }

    GlooCommunicator& owner_;
    const Kind kind_;
    uint64_t slot_;
    std::vector<Message> messages_;
  };

  [[noreturn]] void fail(const Error& error) {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = error;
    throw *failure_;
  }

  template <class F>
  void enqueue(Stream& stream, Kind kind, const std::vector<HostOperand>& operands, F collective) {
    const auto run = [self = shared_from_this(), kind, collective](const std::vector<Tensor>& tensors) {
      Exchange exchange(*self, kind);
      collective(exchange, tensors);
    };
    stream.call(kNames[static_cast<int>(kind)], operands, run);
  }

  // Sends this rank's part of x to every other rank, and receives theirs.
  void gather(Exchange& exchange, const Tensor& x, const Parts& parts) {
    const size_t element = size_of(x.dtype);
    char* data = x.data<char>();
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      exchange.receive(peer, data + parts.begin(peer) * element, parts.count(peer) * element);
      exchange.send(peer, data + parts.begin(rank_) * element, parts.count(rank_) * element);
    }
    exchange.finish();
  }

  // out = the sum of this rank's part of all ranks' x. Adding one piece overlaps with receiving the next.
  void reduce(Exchange& exchange, void* out, const Tensor& x, const Parts& parts) {
    const size_t element = size_of(x.dtype);
    const int64_t piece = kPiece / element, count = parts.count(rank_), pieces = (count + piece - 1) / piece;
    scratch_.resize(2 * (size_ - 1) * kPiece);
    char* data = x.data<char>();
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      for (int64_t k = 0; k * piece < parts.count(peer); ++k) {
        exchange.send(peer, data + (parts.begin(peer) + k * piece) * element,
                      std::min(piece, parts.count(peer) - k * piece) * element, k);
      }
    }
    const auto length = [&](int64_t k) { return std::min(piece, count - k * piece); };
    // The buffer for piece k from rank `peer`; two halves alternate.
    const auto delivered = [&](int peer, int64_t k) {
      return scratch_.data() + ((k % 2) * (size_ - 1) + (peer < rank_ ? peer : peer - 1)) * kPiece;
    };
    Exchange arrivals[2] = {exchange, exchange};
    const auto post = [&](int64_t k) {
      for (int peer = 0; peer < size_; ++peer) {
        if (peer != rank_) arrivals[k % 2].receive(peer, delivered(peer, k), length(k) * element, k);
      }
    };
    if (pieces > 0) post(0);
    std::vector<const void*> terms(size_);
    for (int64_t k = 0; k < pieces; ++k) {
      if (k + 1 < pieces) post(k + 1);
      arrivals[k % 2].finish();
      for (int peer = 0; peer < size_; ++peer) terms[peer] = delivered(peer, k);
      terms[rank_] = data + (parts.begin(rank_) + k * piece) * element;
      add(static_cast<char*>(out) + k * piece * element, terms, length(k), x.dtype);
    }
    exchange.finish();
    exchange.next_phase();
  }

  static void add(void* out, const std::vector<const void*>& terms, int64_t count, DType dtype) {
    if (dtype == DType::float32) {
      add_terms<float>(out, terms, count, [](float x) { return x; }, [](float x) { return x; });
    } else {
      add_terms<uint16_t>(out, terms, count, to_float, to_bfloat16);
    }
  }
  template <class T, class Load, class Store>
  static void add_terms(void* out, const std::vector<const void*>& terms, int64_t count, Load load, Store store) {
    constexpr int64_t kBlock = 1024;
    float sums[kBlock];
    for (int64_t start = 0; start < count; start += kBlock) {
      const int64_t n = std::min(kBlock, count - start);
      for (size_t rank = 0; rank < terms.size(); ++rank) {
        const T* term = static_cast<const T*>(terms[rank]) + start;
        if (rank == 0) {
          for (int64_t i = 0; i < n; ++i) sums[i] = load(term[i]);
        } else {
          for (int64_t i = 0; i < n; ++i) sums[i] += load(term[i]);
        }
      }
      T* result = static_cast<T*>(out) + start;
      for (int64_t i = 0; i < n; ++i) result[i] = store(sums[i]);
    }
  }

  const int rank_, size_;
  const std::chrono::milliseconds timeout_;
  std::unique_ptr<Mesh> mesh_;
  std::vector<char> scratch_;  // accessed only on the stream, as is the count
  uint64_t collectives_ = 0;
  std::mutex mutex_;  // guards the members below
  std::condition_variable changed_;
  bool connected_ = false;
  std::optional<Error> failure_;
  std::vector<UnboundBuffer*> in_flight_;
};

}  // namespace

std::shared_ptr<Communicator> make_gloo(int rank, int size, const std::string& hostname,
                                        std::chrono::milliseconds timeout) {
  return std::make_shared<GlooCommunicator>(rank, size, hostname, timeout);
}

std::string gloo_version() {
  return std::to_string(GLOO_VERSION_MAJOR) + "." + std::to_string(GLOO_VERSION_MINOR) + "." +
         std::to_string(GLOO_VERSION_PATCH);
}

}  // namespace openalpaca::cpu
