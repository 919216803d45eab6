#include "base/folder_lock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <sstream>

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/text.h"

namespace rehearse {

namespace fs = std::filesystem;

namespace {

bool has_option(std::string_view options, std::string_view wanted) {
  for (size_t at = 0; at <= options.size();) {
    const size_t end = std::min(options.find(',', at), options.size());
    if (options.substr(at, end - at) == wanted) return true;
    at = end + 1;
  }
  return false;
}

struct Mount {
  std::string point, type, options;
};

// Octal escapes of mountinfo: a blank is \040.
std::string unescaped(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out += static_cast<char>(std::stoi(text.substr(i + 1, 3), nullptr, 8));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

// Where a folder is mounted: the longest mount point that it is in, the last of equals.
Mount mount_of(const fs::path& folder) {
  Mount found;
  std::istringstream lines(read_own_file("/proc/self/mountinfo"));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string skip, point, options, word;
    words >> skip >> skip >> skip >> skip >> point >> options;
    while (words >> word && word != "-") {
    }
    Mount m{.point = unescaped(point), .type = {}, .options = {}};
    std::string source, of_super_block;
    if (!(words >> m.type >> source >> of_super_block)) continue;
    m.options = options + "," + of_super_block;
    const fs::path root(m.point);
    const bool within =
        m.point == "/" ||
        std::mismatch(root.begin(), root.end(), folder.begin(), folder.end()).first == root.end();
    if (within && m.point.size() >= found.point.size()) found = m;
  }
  return found;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "a host without a name";
}

// Whether the locked file is still the one of that name: its last holder may have removed it.
bool is_named(int file, const std::string& path) {
  struct stat own {};
  struct stat named {};
  return ::fstat(file, &own) == 0 && ::stat(path.c_str(), &named) == 0 &&
         own.st_dev == named.st_dev && own.st_ino == named.st_ino;
}

}  // namespace

std::optional<std::string> why_locks_do_not_hold(std::string_view type, std::string_view options) {
  constexpr std::array<std::string_view, 16> kOfOneMachine = {"ext2",
                                                              "ext3",
                                                              "ext4",
                                                              "xfs",
                                                              "btrfs",
                                                              "zfs",
                                                              "f2fs",
                                                              "bcachefs",
                                                              "tmpfs",
                                                              "ramfs",
                                                              "overlay",
                                                              "jfs",
                                                              "reiserfs",
                                                              "fuseblk",
                                                              "vfat",
                                                              "exfat"};
  if (std::ranges::find(kOfOneMachine, type) != kOfOneMachine.end()) return std::nullopt;
  const auto local = [&](std::initializer_list<std::string_view> kept_here) {
    for (const std::string_view option : kept_here) {
      if (has_option(options, option)) {
        return std::optional<std::string>(
            fmt::format("it is mounted with {}, so that locks are this machine's own", option));
      }
    }
    return std::optional<std::string>();
  };
  if (type == "nfs" || type == "nfs4") {
    return local({"nolock", "local_lock=flock", "local_lock=all"});
  }
  if (type == "lustre") {
    if (const auto why = local({"localflock", "noflock"})) return why;
    if (has_option(options, "flock")) return std::nullopt;
    return "it is mounted without flock";
  }
  if (type == "ceph" || type == "gpfs" || type == "ocfs2" || type == "gfs2" || type == "beegfs") {
    return std::nullopt;
  }
  if (type == "cifs" || type == "smb3") return local({"nobrl", "nolock", "forcemandatorylock"});
  return "whether locks on it hold between machines is not known";
}

FolderLock::FolderLock(const std::string& folder, const std::string& who)
    : folder_(folder), path_(folder + "/.lock") {
  std::error_code error;
  // The topmost folder that is made.
  for (fs::path at = fs::absolute(folder, error).lexically_normal();
       !at.empty() && !fs::exists(at, error);
       at = at.parent_path()) {
    made_ = at.string();
  }
  fs::create_directories(folder, error);
  const Mount mount = mount_of(fs::weakly_canonical(folder, error));
  if (const auto why = why_locks_do_not_hold(mount.type, mount.options)) {
    throw InputError(
        fmt::format("{}: is on a file system ({}, at {}) where nothing keeps a second process out: "
                    "{}; another --out, or --no-lock, where no other process uses it",
                    folder,
                    mount.type,
                    mount.point,
                    *why));
  }
  constexpr mode_t kMode = 0666;  // less the umask
  for (;;) {
    file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kMode);
    if (file_ < 0) {
      throw InputError(fmt::format("{}: cannot be written: {}", path_, std::strerror(errno)));
    }
    if (::flock(file_, LOCK_EX | LOCK_NB) == 0) {
      if (is_named(file_, path_)) break;
      ::close(file_);
      continue;
    }
    const int why = errno;
    ::close(file_);
    file_ = -1;
    if (why == EINTR) continue;
    if (why != EWOULDBLOCK) {
      throw InputError(
          fmt::format("{}: cannot be locked ({}, on {}): {}; another --out, or --no-lock, where no "
                      "other process uses it",
                      folder,
                      mount.type,
                      mount.point,
                      std::strerror(why)));
    }
    const std::string holder = whole_characters(printable(read_own_file(path_)), 500);
    throw InputError(fmt::format("{}: another process works in this folder{}; --out names another",
                                 folder,
                                 holder.empty() ? "" : ": " + holder));
  }
  const std::string text = fmt::format("process {} on {} since {:%Y-%m-%d %H:%M:%S} UTC: {}",
                                       ::getpid(),
                                       host_name(),
                                       fmt::gmtime(std::time(nullptr)),
                                       who);
  if (::ftruncate(file_, 0) != 0 ||
      ::pwrite(file_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    const std::string why = std::strerror(errno);
    ::close(file_);
    throw InputError(fmt::format("{}: cannot be written: {}", path_, why));
  }
}

FolderLock::~FolderLock() {
  // While it is held, so that nobody holds a file without a name.
  ::unlink(path_.c_str());
  ::close(file_);
  std::error_code error;
  if (made_.empty()) return;
  // From the folder up to the topmost one that was made, as long as they are empty.
  fs::path at = fs::absolute(folder_, error).lexically_normal();
  while (fs::remove(at, error) && at != fs::path(made_)) at = at.parent_path();
}

}  // namespace rehearse
