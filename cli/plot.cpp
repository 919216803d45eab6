#include "cli/plot.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/errors.h"
#include "plan/plan.h"

namespace rehearse::cli {
namespace {

constexpr std::array<std::string_view, 3> kPictureFormats{"png", "svg", "pdf"};

[[noreturn]] void fail() {
  throw std::runtime_error(fmt::format("a pipe to python3: {}", std::strerror(errno)));
}

// Two ends that the child does not inherit but by dup2.
class Ends {
 public:
  explicit Ends(const std::array<int, 2>& ends) : ends_(ends) {}
  ~Ends() {
    for (const int end : ends_) {
      if (end >= 0) ::close(end);
    }
  }
  Ends(const Ends&) = delete;
  Ends& operator=(const Ends&) = delete;

  int operator[](size_t i) const { return ends_[i]; }
  void close(size_t i) { ::close(std::exchange(ends_[i], -1)); }

 private:
  std::array<int, 2> ends_;
};

std::array<int, 2> a_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail();
  return ends;
}

// A socket, since writing to a pipe that nobody reads any more ends a process.
std::array<int, 2> a_socket() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) fail();
  return ends;
}

// As far as it is read.
void send_all(int socket, std::string_view contents) {
  while (!contents.empty()) {
    const ssize_t sent = ::send(socket, contents.data(), contents.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return;
    contents.remove_prefix(static_cast<size_t>(sent));
  }
}

std::string read_all(int file) {
  std::string out;
  std::array<char, 1 << 16> block{};
  for (;;) {
    const ssize_t n = ::read(file, block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail();
    if (n == 0) return out;
    out.append(block.data(), static_cast<size_t>(n));
  }
}

// Whether the child ended with exit code 0.
bool succeeded(pid_t child) {
  int status = 1;
  while (::waitpid(child, &status, 0) != child) {
    if (errno != EINTR) return false;
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

std::string picture_format(const std::string& path) {
  const std::string end = std::filesystem::path(path).extension().string();
  for (const std::string_view format : kPictureFormats) {
    if (end == fmt::format(".{}", format)) return std::string(format);
  }
  throw InputError(
      fmt::format("{}: a picture's name ends in .{}", path, fmt::join(kPictureFormats, ", .")));
}

std::optional<std::string> plot(const std::string& script,
                                const std::vector<std::string>& args,
                                const std::string& format,
                                const std::string& input) {
  // The system's Python first: that is the one which distribution packages serve.
  const std::string system = "/usr/bin/python3";
  const std::string python = std::filesystem::exists(system) ? system : "python3";
  // -B: no compiled scripts in a folder that is not ours to write to.
  std::vector<std::string> words = {python, "-B", share_folder() + "/plots/" + script};
  words.insert(words.end(), {"--out", "-", "--format", format});
  words.insert(words.end(), args.begin(), args.end());
  std::vector<char*> argv;
  for (std::string& w : words) argv.push_back(w.data());
  argv.push_back(nullptr);
  constexpr size_t kOurs = 0;
  constexpr size_t kTheirs = 1;
  Ends in(a_socket());
  Ends out(a_pipe());  // read from the first, written to the second
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(in[kTheirs], STDIN_FILENO);
    ::dup2(out[kTheirs], STDOUT_FILENO);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  if (child < 0) fail();
  in.close(kTheirs);
  out.close(kTheirs);
  // Scripts read all of their input before they draw.
  send_all(in[kOurs], input);
  in.close(kOurs);
  std::string picture = read_all(out[kOurs]);
  if (!succeeded(child) || picture.empty()) return std::nullopt;
  return picture;
}

}  // namespace rehearse::cli
