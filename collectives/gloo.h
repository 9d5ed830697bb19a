// Collectives over Gloo's TCP transport, between ranks on any device: a stream stages its tensors in host memory
// (Stream::call).
#pragma once

#include <chrono>

#include "core/communicator.h"

namespace openalpaca::cpu {

// The version that this was compiled with: "0.5.0".
std::string gloo_version();

// hostname is this machine's name or address as the other ranks reach it. A collective without progress for `timeout`
// fails.
std::shared_ptr<Communicator> make_gloo(int rank, int size, const std::string& hostname,
                                        std::chrono::milliseconds timeout);

}  // namespace openalpaca::cpu
