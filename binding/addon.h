// The addon's state per Node.js environment: the main thread and each worker have one.
#pragma once

#include <memory>
#include <vector>

#include "binding/handles.h"

namespace openalpaca::binding {

// A promise that a stream settles (binding/streams.cpp).
struct Pending;
void settle(Napi::Env env, Napi::Function, void*, Pending* pending);
using Settler = Napi::TypedThreadSafeFunction<void, Pending, settle>;

struct Addon {
  // One channel from all streams to the event loop; it keeps the loop alive only while promises are pending.
  Settler settler;
  size_t pending = 0;
  std::vector<std::weak_ptr<Stream>> streams;
  // Creates the lib/errors.ts error for a code and a message.
  Napi::FunctionReference error_factory;
};

}  // namespace openalpaca::binding
