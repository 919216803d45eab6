#pragma once
// Whole files: read, and written so that a reader never sees half of one.

#include <filesystem>
#include <string>
#include <string_view>

namespace rehearse {

// Throws InputError when the file is missing, is a directory or cannot be read.
std::string read_file(const std::string& path);

// Writes beside `path`, then renames over it; creates missing parent folders. Throws InputError
// when that fails; what stood at `path` before is then untouched.
void write_file(const std::string& path, std::string_view contents);

}  // namespace rehearse
