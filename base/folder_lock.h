#pragma once
// One process at a time in a folder: a lock on a file in it that the kernel gives back when its
// holder ends, however it ends, so that none is ever stale. The file says who holds it.

#include <optional>
#include <string>
#include <string_view>

namespace rehearse {

class FolderLock {
 public:
  // Makes the folder where it is missing. who: what the holder does, for those who find it held.
  // Throws InputError naming the holder where it is held; naming the file system where locks on it
  // do not hold between machines.
  FolderLock(const std::string& folder, const std::string& who);
  // Removes the file, and a folder that was made and is empty.
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  std::string folder_, path_, made_;
  int file_ = -1;
};

// Why locks on a file system do not hold between the machines that share it, from its line in
// /proc/self/mountinfo: its type, its mount options and those of the super block, joined by commas;
// none: they do. Sources: flock(2), nfs(5), mount.lustre(8), mount.cifs(8).
std::optional<std::string> why_locks_do_not_hold(std::string_view type, std::string_view options);

}  // namespace rehearse
