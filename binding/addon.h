// What the addon keeps for each environment of Node.js: the main thread's, and every worker's.
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
  // One channel from all streams to the event loop; it holds the loop only while promises are out.
  Settler settler;
  size_t pending = 0;
  std::vector<std::weak_ptr<Stream>> streams;
  // Makes the error of lib/errors.ts that has this code, of the code and a message.
  Napi::FunctionReference error_factory;
};

}  // namespace openalpaca::binding
