// Looks up the name of a kernel. Kernels have internal linkage, so the dynamic linker does not know them; the full
// symbol table is read from the library file.
#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>

#include "emulator/emulator.h"

namespace openalpaca::emulator {
namespace {

template <class T>
std::vector<T> read_table(std::ifstream& file, uint64_t offset, uint64_t bytes) {
  std::vector<T> table(bytes / sizeof(T));
  file.seekg(static_cast<std::streamoff>(offset));
  file.read(reinterpret_cast<char*>(table.data()), static_cast<std::streamsize>(table.size() * sizeof(T)));
  return table;
}

// Addresses in the file → mangled names of all functions.
std::map<uint64_t, std::string> read_functions(const char* path) {
  std::map<uint64_t, std::string> functions;
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header = {};
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  if (!file || header.e_shentsize != sizeof(Elf64_Shdr)) return functions;
  const auto sections = read_table<Elf64_Shdr>(file, header.e_shoff, uint64_t{header.e_shnum} * sizeof(Elf64_Shdr));
  for (const Elf64_Shdr& section : sections) {
    if (section.sh_type != SHT_SYMTAB || section.sh_link >= sections.size()) continue;
    const Elf64_Shdr& names = sections[section.sh_link];
    const auto text = read_table<char>(file, names.sh_offset, names.sh_size);
    for (const auto& symbol : read_table<Elf64_Sym>(file, section.sh_offset, section.sh_size)) {
      if (ELF64_ST_TYPE(symbol.st_info) == STT_FUNC && symbol.st_name < text.size()) {
        functions.emplace(symbol.st_value, text.data() + symbol.st_name);
      }
    }
  }
  return functions;
}

// Without namespaces, parameters and return type: "void a::(anonymous namespace)::f<float>(int)" → "f<float>".
std::string shorten(std::string name) {
  for (const char* part : {"openalpaca::cuda::", "openalpaca::emulator::", "(anonymous namespace)::"}) {
    for (size_t at; (at = name.find(part)) != std::string::npos;) name.erase(at, std::string(part).size());
  }
  if (name.rfind("void ", 0) == 0) name.erase(0, 5);
  int depth = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    depth += name[i] == '<' ? 1 : name[i] == '>' ? -1 : 0;
    if (name[i] == '(' && depth == 0) return name.substr(0, i);
  }
  return name;
}

}  // namespace

std::string kernel_name(const void* kernel) {
  static std::mutex mutex;
  static std::map<const void*, std::string> known;
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(kernel); found != known.end()) return found->second;
  Dl_info info = {};
  std::string name = "a kernel";
  if (dladdr(kernel, &info) && info.dli_fname) {
    static std::map<std::string, std::map<uint64_t, std::string>> files;
    auto [file, added] = files.try_emplace(info.dli_fname);
    if (added) file->second = read_functions(info.dli_fname);
    const auto address = reinterpret_cast<uintptr_t>(kernel) - reinterpret_cast<uintptr_t>(info.dli_fbase);
    // A program that is not position-independent has absolute addresses.
    auto found = file->second.find(address);
    if (found == file->second.end()) found = file->second.find(reinterpret_cast<uintptr_t>(kernel));
    if (found != file->second.end()) {
      int status = 0;
      char* readable = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &status);
      name = shorten(status == 0 ? readable : found->second);
      std::free(readable);
    }
  }
  return known[kernel] = name;
}

}  // namespace openalpaca::emulator
