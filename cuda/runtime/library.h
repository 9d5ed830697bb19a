// Libraries that are opened when a CUDA device is first used, so that the addon loads on a machine without them.
#pragma once

#include <string>
#include <vector>

namespace openalpaca::cuda {

struct LibraryNames {
  const char* what;                  // "cuBLASLt"
  std::vector<const char*> files;    // in order of preference: "libcublasLt.so.13"
  std::vector<const char*> folders;  // where NVIDIA's Python packages keep it, below site-packages
  const char* package;               // "nvidia-cublas", of pip
  const char* otherwise = "";        // how to do without it, where one can
};

// A handle for dlsym. Looks, in this order: in each path of OPENALPACA_CUDA_LIBRARIES (a folder with the library, or a
// site-packages with NVIDIA's packages; separated by colons), beside the addon, where the loader looks
// (LD_LIBRARY_PATH, the system's folders), in CUDA_HOME/lib64 and in /usr/local/cuda/lib64. Throws
// Error("LIBRARY_NOT_FOUND") that says where it looked and what to install.
void* open_library(const LibraryNames& names);

// The address of a function. Throws Error("LIBRARY_NOT_FOUND") where the library, being too old, has none.
void* find_function(void* library, const LibraryNames& names, const char* function);

}  // namespace openalpaca::cuda
