#pragma once
// Libraries that a machine may have, opened when they are first asked for, so that programs start
// without them: the loader's, the CUDA toolkit's, those in Python's packages, or in a folder that
// the user names.

#include <string>
#include <vector>

namespace rehearse {

// Searched before all others from now on (--library-path).
void set_library_path(const std::string& folder);

// The folders that are searched behind what the loader finds by itself, in order.
std::vector<std::string> library_folders();

// A handle for dlsym of the first that opens of `files` ("libcublasLt.so.13"); null where none
// does. It stays open.
void* find_library(const std::vector<std::string>& files);

}  // namespace rehearse
