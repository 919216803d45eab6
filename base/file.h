#pragma once
// Whole files: read, and written so that a reader never sees half of one.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace rehearse {

// A text or an image that is read whole is of at most so many bytes; what is no plain file, but a
// pipe or a device, may go on for ever.
constexpr int64_t kMostFileBytes = int64_t{64} << 30;
constexpr int64_t kMostStreamBytes = 64 << 20;

// An input of this call (base/call_files.h). Throws InputError when the file is missing, is a
// directory, cannot be read, or has more than `most` bytes (more than kMostStreamBytes, where it is
// no plain file).
std::string read_file(const std::string& path, int64_t most = kMostFileBytes);

// The same of a file that this call itself goes on with, such as its log: no input.
std::string read_own_file(const std::string& path);

// Throws InputError when write_file could not write `path`: its name is empty, it is a folder or a
// device (/dev/stdout among them), nobody may write to it, or it stands where nothing may be
// created. For checking before long work; creates nothing.
void require_writable(const std::string& path);

// A file that is written in pieces and stands at `path` once it is whole: until then there is
// nothing, or what was there before. It has no name on the way where the file system can do that
// (O_TMPFILE), so that a kill leaves nothing. Missing parent folders are made. A symbolic link is
// followed, not replaced; a file that stood there hands on its permissions. All throw InputError;
// what stood at `path` before is then untouched.
class NewFile {
 public:
  explicit NewFile(const std::string& path);
  ~NewFile();  // without commit(): as if it had never been
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  void write(std::string_view bytes);
  // to_disk: waits until the disk has it.
  void commit(bool to_disk = false);

 private:
  [[noreturn]] void fail(const char* what);

  std::string path_, end_, beside_;  // beside_: its name on the way; empty: none
  int file_ = -1;
  bool done_ = false;
};

// A NewFile at once.
void write_file(const std::string& path, std::string_view contents);

// Whether both names are of one file, now or once it is written: links are followed.
bool same_file(const std::string& a, const std::string& b);

// A file that grows by whole lines, each there for readers once append() returns.
class LogFile {
 public:
  enum class Mode : uint8_t {
    kAnew,
    kGoOn  // behind the last whole line
  };
  // Throws InputError when it cannot be written.
  explicit LogFile(const std::string& path, Mode mode = Mode::kAnew);
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;
  // A line break is added. False when the line could not be written whole, as on a full disk: none
  // of it is then in the file; why() says what was wrong.
  bool append(std::string line) { return append_bytes(line + '\n'); }
  // The same of bytes as they are.
  bool append_bytes(std::string_view bytes);
  const std::string& why() const { return why_; }

 private:
  int file_;
  std::string path_, why_;
};

}  // namespace rehearse
