// Collectives: what the ranks of a run do together. A communicator enqueues them on a stream, in order with its ops.
//
// All ranks make the same calls in the same order, with the same lengths. Every rank gets the same bits, on every run
// with as many ranks on the same machines. Over Gloo sums are taken in the order of the ranks, in float32, and rounded
// once to the dtype; over NCCL as NCCL does. A communicator is used from one stream at a time.
//
// What goes wrong poisons the stream, as with any op: RANK_LOST when a rank has gone, COLLECTIVE_TIMEOUT with the
// collective and, where the library can tell, the ranks that did not arrive. A communicator that has failed stays
// failed.
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

  // Setting up is in two steps: every rank hands its address to all others by some other way, and then all connect.
  using Address = std::vector<uint8_t>;
  virtual Address address() const = 0;
  // addresses[r] is that of rank r. Waits for all of them, so it wants a thread that may wait; abort ends that too.
  virtual void connect(const std::vector<Address>& addresses) = 0;

  // out = the `in` of all ranks, one behind the other. in may lie in its place in out.
  virtual void all_gather(Stream& stream, const Tensor& out, const Tensor& in) = 0;
  // out = this rank's part of the sum over ranks of `in`. out may be this rank's part of in.
  virtual void reduce_scatter(Stream& stream, const Tensor& out, const Tensor& in) = 0;
  // x = the sum of all ranks' x.
  virtual void all_reduce(Stream& stream, const Tensor& x) = 0;
  // x = the x of rank `root`.
  virtual void broadcast(Stream& stream, const Tensor& x, int root) = 0;
  // Ends when all ranks have come to it.
  virtual void barrier(Stream& stream) = 0;

  // Ends, from any thread, what is running and all that follows with this error; for when a rank is known to be lost.
  virtual void abort(const Error& reason) = 0;
};

}  // namespace openalpaca
