// Collective operations among the ranks of a run. A communicator enqueues them on a stream, in order with its ops.
//
// All ranks make the same calls in the same order, with the same lengths. Results are bitwise identical on all ranks,
// and across runs with the same number of ranks on the same machines. Gloo sums in float32 in rank order and rounds
// once to the dtype; over NCCL the order is NCCL's. Use a communicator from one stream at a time.
//
// A failure poisons the stream, as in any op: RANK_LOST when a rank has gone, COLLECTIVE_TIMEOUT with the name of the
// collective and, if the library can identify them, the missing ranks. A communicator that has failed stays failed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"

namespace openalpaca {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Setup takes two steps: every rank sends its address to all others out of band, and then all connect.
  using Address = std::vector<uint8_t>;
  virtual Address address() const = 0;
  // addresses[r] is rank r's. Blocks until all ranks are connected, so call it on a thread that may block; abort
  // interrupts it.
  virtual void connect(const std::vector<Address>& addresses) = 0;

  // Concatenates every rank's `in` into `out`. `in` may alias this rank's slice of `out`.
  virtual void all_gather(Stream& stream, const Tensor& out, const Tensor& in) = 0;
  // out = this rank's slice of the sum of all ranks' `in`. `out` may alias this rank's slice of `in`.
  virtual void reduce_scatter(Stream& stream, const Tensor& out, const Tensor& in) = 0;
  // x = the sum of all ranks' x.
  virtual void all_reduce(Stream& stream, const Tensor& x) = 0;
  // x = rank `root`'s x.
  virtual void broadcast(Stream& stream, const Tensor& x, int root) = 0;
  // Completes when all ranks have reached it.
  virtual void barrier(Stream& stream) = 0;

  // Fails the running collective and all later ones with this error, from any thread; for when a rank is known to be
  // lost.
  virtual void abort(const Error& reason) = 0;
};

}  // namespace openalpaca
