// Preloaded into the program by tests/call_files_test.cpp: every file that it opens and every name
// that it gives one, as a line of the file that OPENED_FILES names: "R path", "W path" or "N path"
// (a name by rename or link). It knows nothing of the program's own lists.

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <dlfcn.h>
#include <fcntl.h>
#include <unistd.h>

namespace {

template <typename F>
F next(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

using Open = int (*)(const char*, int, ...);

void tell(char what, const char* path) {
  const char* const log = std::getenv("OPENED_FILES");
  if (log == nullptr || path == nullptr) return;
  const std::string line = std::string(1, what) + " " + path + "\n";
  const int file = next<Open>("open")(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file < 0) return;
  [[maybe_unused]] const ssize_t wrote = ::write(file, line.data(), line.size());
  ::close(file);
}

void tell_open(const char* path, int flags) {
  tell((flags & O_ACCMODE) == O_RDONLY ? 'R' : 'W', path);
}

}  // namespace

extern "C" {

#define MODE_OF(flags)                                  \
  mode_t mode = 0;                                      \
  if ((flags & (O_CREAT | __O_TMPFILE)) != 0) {         \
    va_list rest;                                       \
    va_start(rest, flags);                              \
    mode = static_cast<mode_t>(va_arg(rest, unsigned)); \
    va_end(rest);                                       \
  }

int open(const char* path, int flags, ...) {
  MODE_OF(flags)
  tell_open(path, flags);
  return next<Open>("open")(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  MODE_OF(flags)
  tell_open(path, flags);
  return next<Open>("open64")(path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  MODE_OF(flags)
  tell_open(path, flags);
  return next<int (*)(int, const char*, int, ...)>("openat")(folder, path, flags, mode);
}
FILE* fopen(const char* path, const char* mode) {
  tell(std::strchr(mode, 'r') != nullptr && std::strchr(mode, '+') == nullptr ? 'R' : 'W', path);
  return next<FILE* (*)(const char*, const char*)>("fopen")(path, mode);
}
FILE* fopen64(const char* path, const char* mode) {
  tell(std::strchr(mode, 'r') != nullptr && std::strchr(mode, '+') == nullptr ? 'R' : 'W', path);
  return next<FILE* (*)(const char*, const char*)>("fopen64")(path, mode);
}
int rename(const char* from, const char* to) {
  const int done = next<int (*)(const char*, const char*)>("rename")(from, to);
  if (done == 0) tell('N', to);
  return done;
}

}  // extern "C"
