// Collectives over Gloo's TCP transport, between ranks on any device: a stream brings its tensors into host memory and
// back (Stream::call).
#pragma once

#include <chrono>

#include "core/communicator.h"

namespace openalpaca::cpu {

// That this was compiled with: "0.5.0".
std::string gloo_version();

// hostname is the name or address of this machine that the other ranks can reach. A collective in which nothing moves
// for `timeout` fails.
std::shared_ptr<Communicator> make_gloo(int rank, int size, const std::string& hostname,
                                        std::chrono::milliseconds timeout);

}  // namespace openalpaca::cpu
