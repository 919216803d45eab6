#include "kernels/checking/supervisor.h"

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/checking/json_line.h"

namespace rehearse::kernels {
namespace {

// A message of the process to the one that watches it.
enum class Kind : uint8_t { kReady, kRefused, kBegin, kPassed, kFailed, kEnd };

void write_all(int fd, const void* data, size_t bytes) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n = ::write(fd, p, bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) _exit(1);  // nobody listens any more
    p += n;
    bytes -= static_cast<size_t>(n);
  }
}

void send(int fd, Kind kind, const std::string& first = "", const std::string& second = "") {
  const uint32_t sizes[2] = {static_cast<uint32_t>(first.size()),
                             static_cast<uint32_t>(second.size())};
  std::string message(1, static_cast<char>(kind));
  message.append(reinterpret_cast<const char*>(sizes), sizeof(sizes));
  message += first + second;
  write_all(fd, message.data(), message.size());
}

[[noreturn]] void work(int fd, const std::vector<Job>& jobs, size_t first, const Supervision& s) {
  try {
    s.prepare();
  } catch (const std::exception& e) {
    send(fd, Kind::kRefused, e.what());
    _exit(0);
  }
  send(fd, Kind::kReady);
  for (size_t i = first; i < jobs.size(); ++i) {
    send(fd, Kind::kBegin);
    try {
      jobs[i].run([&](const Result& r) {
        send(fd, r.passed ? Kind::kPassed : Kind::kFailed, r.text, r.json);
      });
    } catch (const std::exception& e) {
      const std::string why = e.what();
      send(fd,
           Kind::kFailed,
           jobs[i].name + ": " + why,
           JsonLine().add("case", jobs[i].name).add("passed", false).add("found", why).text());
    }
    send(fd, Kind::kEnd);
    if (s.broken()) break;
  }
  _exit(0);
}

class Process {
 public:
  Process(const std::vector<Job>& jobs, size_t first, const Supervision& s) {
    int ends[2];
    if (pipe(ends) != 0) throw std::system_error(errno, std::generic_category(), "pipe");
    pid_ = fork();
    if (pid_ < 0) throw std::system_error(errno, std::generic_category(), "fork");
    if (pid_ == 0) {
      close(ends[0]);
      work(ends[1], jobs, first, s);
    }
    close(ends[1]);
    fd_ = ends[0];
  }
  ~Process() {
    close(fd_);
    kill(pid_, SIGKILL);
    if (!waited_) waitpid(pid_, nullptr, 0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  enum class Read { kMessage, kEnd, kLate };
  Read read(Kind& kind, std::string& first, std::string& second, double limit_s) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(limit_s);
    uint32_t sizes[2] = {};
    constexpr size_t kHead = 1 + sizeof(sizes);
    for (;;) {
      if (buffer_.size() >= kHead) {
        std::memcpy(sizes, buffer_.data() + 1, sizeof(sizes));
        if (buffer_.size() >= kHead + sizes[0] + sizes[1]) break;
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      pollfd p{fd_, POLLIN, 0};
      const int ready = left.count() <= 0 ? 0 : poll(&p, 1, static_cast<int>(left.count()));
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) return Read::kLate;
      char chunk[4096];
      const ssize_t n = ::read(fd_, chunk, sizeof(chunk));
      if (n <= 0) return Read::kEnd;
      buffer_.append(chunk, static_cast<size_t>(n));
    }
    kind = static_cast<Kind>(buffer_[0]);
    first = buffer_.substr(kHead, sizes[0]);
    second = buffer_.substr(kHead + sizes[0], sizes[1]);
    buffer_.erase(0, kHead + sizes[0] + sizes[1]);
    return Read::kMessage;
  }
  // How it ended, which it has.
  std::string end() {
    int status = 0;
    waitpid(pid_, &status, 0);
    waited_ = true;
    if (WIFSIGNALED(status)) return std::string("ended by ") + strsignal(WTERMSIG(status));
    return "ended with exit code " + std::to_string(WEXITSTATUS(status));
  }

 private:
  pid_t pid_ = 0;
  int fd_ = -1;
  bool waited_ = false;
  std::string buffer_;
};

double cpu_seconds_of_children() {
  rusage u{};
  getrusage(RUSAGE_CHILDREN, &u);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(u.ru_utime) + seconds(u.ru_stime);
}

}  // namespace

double supervise(const std::vector<Job>& jobs, const Supervision& supervision, const Emit& emit) {
  constexpr double kStartLimit = 120;  // a driver's first call can take long
  constexpr int kFruitless = 3;
  const double before = cpu_seconds_of_children();
  size_t next = 0;
  int fruitless = 0;
  while (next < jobs.size()) {
    Process process(jobs, next, supervision);
    const size_t first = next;
    bool ready = false;
    bool running = false;
    for (;;) {
      Kind kind{};
      std::string text, json;
      const Process::Read read =
          process.read(kind, text, json, ready ? supervision.limit_s : kStartLimit);
      if (read == Process::Read::kMessage) {
        if (kind == Kind::kRefused) throw std::runtime_error(text);
        if (kind == Kind::kReady) ready = true;
        if (kind == Kind::kBegin) running = true;
        if (kind == Kind::kPassed || kind == Kind::kFailed) {
          emit({kind == Kind::kPassed, text, json});
        }
        if (kind == Kind::kEnd) running = false, ++next;
        continue;
      }
      const bool late = read == Process::Read::kLate;
      const std::string why =
          late ? "not done within " + std::to_string(static_cast<int>(supervision.limit_s)) + " s"
               : process.end();
      if (!ready) throw std::runtime_error("the first process for the checks: " + why);
      if (running) {
        const std::string& name = jobs[next].name;
        emit({false,
              "FAIL  " + name + ": " + why,
              JsonLine().add("case", name).add("passed", false).add("found", why).text()});
        ++next;
      }
      break;
    }
    fruitless = next > first + 1 ? 0 : fruitless + 1;
    if (fruitless == kFruitless && next < jobs.size()) {
      throw std::runtime_error("gave up: " + std::to_string(kFruitless) +
                               " processes in a row did not end their first job; " +
                               std::to_string(jobs.size() - next) + " jobs not run");
    }
  }
  return cpu_seconds_of_children() - before;
}

}  // namespace rehearse::kernels
