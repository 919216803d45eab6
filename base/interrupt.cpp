#include "base/interrupt.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>

#include <time.h>
#include <unistd.h>

#include "base/text.h"

namespace rehearse {
namespace {

constexpr int64_t kSameWish = 1'000'000'000;  // nanoseconds

std::atomic<int> caught = 0;
std::atomic<int64_t> caught_at = 0;

// What a handler may read at any moment: one text is written while the other is the current one.
using Line = std::array<char, 256>;
std::array<Line, 2> losses{};
std::atomic<unsigned> current = 0;

static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

int64_t now() {
  struct timespec t {};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

void put(const char* text) {
  [[maybe_unused]] const ssize_t wrote = ::write(STDERR_FILENO, text, std::strlen(text));
}

// Functions that signal-safety(7) lists alone.
void remember(int signal) {
  const int error = errno;
  const int64_t at = now();
  int none = 0;
  if (caught.compare_exchange_strong(none, signal)) {
    caught_at = at;
  } else if (const int64_t first = caught_at; first != 0 && at - first >= kSameWish) {
    const char* const lost = losses[current.load() % 2].data();
    put("\nrehearse: ended at once by a second signal");
    if (*lost != '\0') put(": ");
    put(lost);
    put("\n");
    struct sigaction by_default {};
    by_default.sa_handler = SIG_DFL;
    ::sigaction(signal, &by_default, nullptr);
    ::raise(signal);  // delivered when this handler returns
  }
  errno = error;
}

}  // namespace

void catch_interrupts() {
  caught = 0;
  caught_at = 0;
  struct sigaction action {};
  action.sa_handler = remember;
  ::sigemptyset(&action.sa_mask);
  ::sigaddset(&action.sa_mask, SIGINT);
  ::sigaddset(&action.sa_mask, SIGTERM);
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

std::optional<int> interrupted() {
  const int signal = caught;
  return signal == 0 ? std::nullopt : std::optional<int>(signal);
}

void say_what_an_end_loses(const std::string& what) {
  Line& next = losses[(current.load() + 1) % 2];
  const std::string text = whole_characters(what, next.size() - 1);
  std::memcpy(next.data(), text.c_str(), text.size() + 1);
  ++current;
}

}  // namespace rehearse
