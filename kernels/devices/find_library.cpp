#include "kernels/devices/find_library.h"

#include <cstdlib>

#include <dlfcn.h>
#include <glob.h>

namespace rehearse {
namespace {

std::string& named_folder() {
  static std::string folder;
  return folder;
}

void add_matches(const std::string& pattern, std::vector<std::string>& folders) {
  glob_t found{};
  if (glob(pattern.c_str(), GLOB_ONLYDIR, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; ++i) folders.emplace_back(found.gl_pathv[i]);
  }
  globfree(&found);
}

}  // namespace

void set_library_path(const std::string& folder) {
  named_folder() = folder;
}

std::vector<std::string> library_folders() {
  std::vector<std::string> folders;
  for (const char* pattern : {"/usr/local/cuda/lib64", "/usr/local/cuda-13*/lib64"}) {
    add_matches(pattern, folders);
  }
  std::vector<std::string> pythons = {"/usr", "/usr/local", "/opt/conda", "/opt/venv"};
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const char* prefix = std::getenv(variable)) pythons.insert(pythons.begin(), prefix);
  }
  if (const char* home = std::getenv("HOME")) pythons.push_back(std::string(home) + "/.local");
  for (const std::string& prefix : pythons) {
    for (const char* packages : {"site-packages", "dist-packages"}) {
      add_matches(prefix + "/lib/python3*/" + packages + "/nvidia/*/lib", folders);
    }
  }
  return folders;
}

void* find_library(const std::vector<std::string>& files) {
  const auto open = [](const std::string& path) {
    return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  };
  for (const std::string& file : files) {
    if (named_folder().empty()) continue;
    if (void* handle = open(named_folder() + "/" + file)) return handle;
  }
  for (const std::string& file : files) {
    if (void* handle = open(file)) return handle;
  }
  for (const std::string& folder : library_folders()) {
    for (const std::string& file : files) {
      if (void* handle = open(folder + "/" + file)) return handle;
    }
  }
  return nullptr;
}

}  // namespace rehearse
