#pragma once
// Whole files: read, and written so that a reader never sees half of one.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace rehearse {

// Throws InputError when the file is missing, is a directory or cannot be read.
std::string read_file(const std::string& path);

// Throws InputError when write_file could not write `path`: its name is empty, it is a folder or a
// device (/dev/stdout among them), nobody may write to it, or it stands where nothing may be
// created. For checking before long work; creates nothing.
void require_writable(const std::string& path);

// Writes beside `path`, then renames over it; creates missing parent folders. A symbolic link is
// followed, not replaced; a file that stood there hands on its permissions. Throws InputError when
// that fails; what stood at `path` before is then untouched.
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
