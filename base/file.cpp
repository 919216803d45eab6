#include "base/file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"

namespace rehearse {

namespace fs = std::filesystem;

namespace {

[[noreturn]] void cannot_write(const std::string& path, const std::string& why) {
  throw InputError(fmt::format("{}: cannot be written: {}", path, why));
}

// Where the links that `path` may be lead to; the end need not exist. Throws InputError for an
// empty name, circles, and what is no place in a file system.
fs::path end_of_links(const std::string& path) {
  if (path.empty()) throw InputError("an output file needs a name: it is empty");
  std::error_code error;
  fs::path at = fs::absolute(path, error).lexically_normal();
  constexpr int kMostLinks = 40;  // as the system's own limit
  for (int i = 0; i <= kMostLinks; ++i) {
    const std::string name = at.string();
    const bool device = name.starts_with("/dev/") && !name.starts_with("/dev/shm/");
    if (device || name.starts_with("/proc/")) {
      cannot_write(path, "it is a device or an open file, not the name of a plain file");
    }
    if (!fs::is_symlink(fs::symlink_status(at, error))) return at;
    const fs::path next = fs::read_symlink(at, error);
    if (error) cannot_write(path, error.message());
    at = (at.parent_path() / next).lexically_normal();
  }
  cannot_write(path, "its symbolic links lead in a circle");
}

// The same, checked for being writable.
fs::path writable_end(const std::string& path) {
  const fs::path end = end_of_links(path);
  std::error_code error;
  const fs::file_status status = fs::status(end, error);
  if (fs::exists(status) && !fs::is_regular_file(status)) {
    cannot_write(path, "it is not a plain file");
  }
  constexpr fs::perms kAnyWrite =
      fs::perms::owner_write | fs::perms::group_write | fs::perms::others_write;
  // root may write anything: a file that nobody may write to is meant to be kept all the same.
  const bool kept = fs::exists(status) && ((status.permissions() & kAnyWrite) == fs::perms::none ||
                                           ::access(end.c_str(), W_OK) != 0);
  if (kept) cannot_write(path, "it is there and has no write permission");
  // The nearest folder above that is there already.
  fs::path folder = end.parent_path();
  while (!folder.empty() && !fs::exists(folder, error) && folder != folder.parent_path()) {
    folder = folder.parent_path();
  }
  if (!fs::is_directory(folder, error) || ::access(folder.c_str(), W_OK) != 0) {
    cannot_write(path, folder.string() + " is not a folder that may be written to");
  }
  return end;
}

}  // namespace

std::string read_file(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) throw InputError(fmt::format("{}: no such file", path));
  if (fs::is_directory(status)) throw InputError(fmt::format("{}: is a folder, not a file", path));
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  if (in && in.peek() != std::ifstream::traits_type::eof()) out << in.rdbuf();
  if (in.bad() || !out || (!in && !in.eof())) {
    throw InputError(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  }
  return std::move(out).str();
}

void require_writable(const std::string& path) {
  writable_end(path);
}

void write_file(const std::string& path, std::string_view contents) {
  const fs::path target = writable_end(path);
  std::error_code error;
  const fs::file_status before = fs::status(target, error);
  fs::create_directories(target.parent_path(), error);
  const std::string beside = fmt::format("{}.{}.part", target.string(), ::getpid());
  std::ofstream out(beside, std::ios::binary | std::ios::trunc);
  out.write(contents.data(), static_cast<std::streamsize>(contents.size()));
  out.close();
  if (!out) {
    const std::string why = std::strerror(errno);
    fs::remove(beside, error);
    cannot_write(path, why);
  }
  if (fs::exists(before)) fs::permissions(beside, before.permissions(), error);
  fs::rename(beside, target, error);
  if (error) {
    const std::string why = error.message();
    fs::remove(beside, error);
    cannot_write(path, why);
  }
}

bool same_file(const std::string& a, const std::string& b) {
  std::error_code error;
  if (fs::equivalent(a, b, error) && !error) return true;
  return fs::weakly_canonical(fs::absolute(a, error), error) ==
         fs::weakly_canonical(fs::absolute(b, error), error);
}

LogFile::LogFile(const std::string& path, Mode mode) : path_(path) {
  const fs::path end = writable_end(path);
  std::error_code error;
  fs::create_directories(end.parent_path(), error);
  constexpr mode_t kMode = 0666;  // less the umask
  const int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
  off_t whole = 0;
  if (mode == Mode::kGoOn && fs::exists(end)) {
    whole = static_cast<off_t>(read_file(path).rfind('\n') + 1);  // 0 where there is none
  }
  file_ = ::open(end.c_str(), flags, kMode);
  if (file_ < 0) cannot_write(path, std::strerror(errno));
  if (::ftruncate(file_, whole) != 0) {
    ::close(file_);
    cannot_write(path, std::strerror(errno));
  }
}

LogFile::~LogFile() {
  ::close(file_);
}

bool LogFile::append_bytes(std::string_view line) {
  struct stat before {};
  ::fstat(file_, &before);
  for (size_t done = 0; done < line.size();) {
    const ssize_t wrote = ::write(file_, line.data() + done, line.size() - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      why_ = fmt::format("{}: cannot be written: {}", path_, std::strerror(errno));
      if (::ftruncate(file_, before.st_size) != 0) why_ += ", a part of a line stays in it";
      return false;
    }
    done += static_cast<size_t>(wrote);
  }
  return true;
}

}  // namespace rehearse
