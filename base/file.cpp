#include "base/file.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/call_files.h"
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

namespace {

// The descriptor of an open file, closed at the end.
struct Descriptor {
  int number = -1;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

std::string read_whole(const std::string& path, int64_t most) {
  std::error_code error;
  const fs::file_status found = fs::status(path, error);
  if (!fs::exists(found)) throw InputError(fmt::format("{}: no such file", path));
  if (fs::is_directory(found)) throw InputError(fmt::format("{}: is a folder, not a file", path));
  const auto cannot_read = [&] {
    throw InputError(fmt::format("{}: cannot be read: {}", path, std::strerror(errno)));
  };
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.number < 0) cannot_read();
  struct stat status {};
  if (::fstat(file.number, &status) != 0) cannot_read();
  const bool plain = S_ISREG(status.st_mode);
  const int64_t limit = plain ? most : std::min(most, kMostStreamBytes);
  // Files of /proc and /sys say that they have no bytes, and others grow meanwhile.
  constexpr int64_t kLeast = 1 << 16;
  std::string text(static_cast<size_t>(std::clamp(plain ? status.st_size + 1 : 0, kLeast, limit)),
                   '\0');
  size_t size = 0;
  while (true) {
    if (static_cast<int64_t>(size) > limit) {
      throw InputError(
          fmt::format("{}: has more than {} bytes{}, the most that such a file may have",
                      path,
                      limit,
                      plain ? "" : " and is no plain file"));
    }
    if (size == text.size())
      text.resize(std::min<size_t>(2 * size, static_cast<size_t>(limit) + 1));
    const ssize_t n = ::read(file.number, text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) cannot_read();
    if (n == 0) break;
    size += static_cast<size_t>(n);
  }
  text.resize(size);
  return text;
}

}  // namespace

std::string read_file(const std::string& path, int64_t most) {
  note_input(path);
  return read_whole(path, most);
}

std::string read_own_file(const std::string& path) {
  return read_whole(path, kMostFileBytes);
}

void require_writable(const std::string& path) {
  writable_end(path);
}

NewFile::NewFile(const std::string& path) : path_(path) {
  end_ = writable_end(path).string();
  const fs::path folder = fs::path(end_).parent_path();
  std::error_code error;
  fs::create_directories(folder, error);
  constexpr mode_t kMode = 0666;  // less the umask
  file_ = ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, kMode);
  if (file_ < 0) {
    beside_ = fmt::format("{}.{}.part", end_, ::getpid());
    file_ = ::open(beside_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, kMode);
  }
  if (file_ < 0) fail("cannot be written");
}

NewFile::~NewFile() {
  if (file_ >= 0) ::close(file_);
  if (!done_ && !beside_.empty()) ::unlink(beside_.c_str());
}

void NewFile::fail(const char* what) {
  throw InputError(fmt::format("{}: {}: {}", path_, what, std::strerror(errno)));
}

void NewFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail("cannot be written");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void NewFile::commit(bool to_disk) {
  if (to_disk && ::fsync(file_) != 0 && errno != EINVAL) fail("cannot be written");
  struct stat before {};
  if (::stat(end_.c_str(), &before) == 0) ::fchmod(file_, before.st_mode & 07777);
  if (beside_.empty()) {
    // Given a name for the moment that a rename takes: linkat() replaces nothing.
    const std::string name = fmt::format("{}.{}.part", end_, ::getpid());
    const std::string open_file = fmt::format("/proc/self/fd/{}", file_);
    ::unlink(name.c_str());
    if (::linkat(AT_FDCWD, open_file.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      fail("cannot be written");
    }
    beside_ = name;
  }
  if (::rename(beside_.c_str(), end_.c_str()) != 0) fail("cannot be written");
  done_ = true;
  note_written(path_);
}

void write_file(const std::string& path, std::string_view contents) {
  NewFile file(path);
  file.write(contents);
  file.commit();
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
    whole = static_cast<off_t>(read_own_file(path).rfind('\n') + 1);  // 0 where there is none
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
