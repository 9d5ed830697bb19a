#include "cuda/runtime/library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "core/device.h"

namespace openalpaca::cuda {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::vector<std::string> split(const std::string& paths) {
  std::vector<std::string> parts;
  for (size_t start = 0; start <= paths.size();) {
    const size_t end = std::min(paths.find(':', start), paths.size());
    if (end > start) parts.push_back(paths.substr(start, end - start));
    start = end + 1;
  }
  return parts;
}

// The directory of the file that contains this code.
std::string own_folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&own_folder), &info) || !info.dli_fname) return "";
  const std::string file = info.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "" : file.substr(0, slash);
}

// The directories to try; "" stands for the loader's own search.
std::vector<std::string> places(const LibraryNames& names) {
  std::vector<std::string> all;
  for (const std::string& path : split(environment("OPENALPACA_CUDA_LIBRARIES"))) {
    all.push_back(path);
    for (const char* folder : names.folders) all.push_back(path + "/" + folder);
  }
  if (const std::string folder = own_folder(); !folder.empty()) all.push_back(folder);
  all.push_back("");
  if (const std::string home = environment("CUDA_HOME"); !home.empty()) all.push_back(home + "/lib64");
  all.push_back("/usr/local/cuda/lib64");
  return all;
}

bool is_missing(const std::string& error, const std::string& file) {
  return error.find(file + ": cannot open shared object file: No such file") != std::string::npos;
}

}  // namespace

void* open_library(const LibraryNames& names) {
  std::string looked, refused;
  for (const std::string& place : places(names)) {
    for (const char* name : names.files) {
      const std::string file = place.empty() ? name : place + "/" + name;
      if (void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      const char* error = dlerror();
      if (error && !is_missing(error, file)) refused += std::string("; ") + error;
    }
    looked += (looked.empty() ? "" : ", ") + (place.empty() ? "the loader's path" : place);
  }
  throw Error("LIBRARY_NOT_FOUND",
              std::string(names.what) + " (" + names.files[0] + ") was not found in " + looked + refused +
                  ". Install the CUDA toolkit's libraries, or run pip install " + names.package +
                  " and set OPENALPACA_CUDA_LIBRARIES to its directory or to site-packages" + names.otherwise);
}

void* find_function(void* library, const LibraryNames& names, const char* function) {
  if (void* address = dlsym(library, function)) return address;
  throw Error("LIBRARY_NOT_FOUND", std::string("this version of ") + names.what + " has no " + function +
                                       "; install a newer one: pip install --upgrade " + names.package);
}

}  // namespace openalpaca::cuda
