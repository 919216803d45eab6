#pragma once
// Whole files: read, and written so that a reader never sees half of one.

#include <filesystem>
#include <string>
#include <string_view>

namespace rehearse {

// Throws InputError when the file is missing, is a directory or cannot be read.
std::string read_file(const std::string& path);

// Throws InputError when write_file could not write `path`: it is a folder or a device, or stands
// where nothing may be created. For checking before long work; creates nothing.
void require_writable(const std::string& path);

// Writes beside `path`, then renames over it; creates missing parent folders. Throws InputError
// when that fails; what stood at `path` before is then untouched.
void write_file(const std::string& path, std::string_view contents);

}  // namespace rehearse
