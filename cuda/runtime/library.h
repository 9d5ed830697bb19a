// Libraries that are opened when a CUDA device is first used, so that the addon loads on a machine without them.
#pragma once

#include <string>
#include <vector>

namespace openalpaca::cuda {

struct LibraryNames {
  const char* what;                  // "cuBLASLt"
  std::vector<const char*> files;    // in order of preference: "libcublasLt.so.13"
  std::vector<const char*> folders;  // their directories in NVIDIA's Python packages, below site-packages
  const char* package;               // the pip package: "nvidia-cublas"
  const char* otherwise = "";        // how to work without it, if possible
};

// Returns a handle for dlsym. Searches, in this order: each path of OPENALPACA_CUDA_LIBRARIES (a directory with the
// library, or a site-packages with NVIDIA's packages; separated by colons), the addon's directory, the loader's path
// (LD_LIBRARY_PATH, the system's directories), CUDA_HOME/lib64, and /usr/local/cuda/lib64. Throws
// Error("LIBRARY_NOT_FOUND") that lists the places searched and the package to install.
void* open_library(const LibraryNames& names);

// The address of a function. Throws Error("LIBRARY_NOT_FOUND") if the library is too old to have it.
void* find_function(void* library, const LibraryNames& names, const char* function);

}  // namespace openalpaca::cuda
