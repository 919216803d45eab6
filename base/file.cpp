#include "base/file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include <fmt/format.h>
#include <unistd.h>

#include "base/errors.h"

namespace rehearse {

namespace fs = std::filesystem;

std::string read_file(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw InputError(fmt::format("{}: no such file", path));
  if (fs::is_directory(status)) throw InputError(fmt::format("{}: is a folder, not a file", path));
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  if (in) out << in.rdbuf();
  if (!in || in.bad()) {
    throw InputError(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  }
  return std::move(out).str();
}

void require_writable(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    throw InputError(fmt::format("{}: cannot be written: it is not a plain file", path));
  }
  // The nearest folder above that is there already.
  fs::path folder = fs::absolute(path, error).parent_path();
  while (!folder.empty() && !fs::exists(folder, error) && folder != folder.parent_path()) {
    folder = folder.parent_path();
  }
  if (!fs::is_directory(folder, error) || ::access(folder.c_str(), W_OK) != 0) {
    throw InputError(fmt::format(
        "{}: cannot be written: {} is not a folder that may be written to", path, folder.string()));
  }
}

void write_file(const std::string& path, std::string_view contents) {
  require_writable(path);
  std::error_code error;
  const fs::path target(path);
  if (target.has_parent_path()) fs::create_directories(target.parent_path(), error);
  const std::string beside = fmt::format("{}.{}.part", path, ::getpid());
  std::ofstream out(beside, std::ios::binary | std::ios::trunc);
  out.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  out.close();
  if (!out) {
    const std::string why = std::strerror(errno);
    fs::remove(beside, error);
    throw InputError(fmt::format("{}: cannot be written: {}", path, why));
  }
  fs::rename(beside, target, error);
  if (error) {
    const std::string why = error.message();
    fs::remove(beside, error);
    throw InputError(fmt::format("{}: cannot be written: {}", path, why));
  }
}

}  // namespace rehearse
