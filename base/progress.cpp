#include "base/progress.h"

#include <algorithm>

#include <fmt/format.h>
#include <unistd.h>

namespace rehearse {

Progress::Progress(Options options)
    : options_(std::move(options)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      started_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (open_line_) fmt::print(stderr, "\n");
}

void Progress::update(int64_t done, const std::string& note) {
  if (options_.quiet || options_.total <= 0) return;
  const auto now = std::chrono::steady_clock::now();
  const double elapsed = std::chrono::duration<double>(now - started_).count();
  const double share =
      std::clamp(static_cast<double>(done) / static_cast<double>(options_.total), 0.0, 1.0);
  const double left = done > 0 ? elapsed * (1 - share) / std::max(share, 1e-9) : 0;
  if (terminal_) {
    const bool last = done >= options_.total;
    if (!last && open_line_ && now - drawn_ < std::chrono::milliseconds(100)) return;
    constexpr int kWidth = 30;
    const int filled = static_cast<int>(share * kWidth);
    fmt::print(stderr,
               "\r{} [{:#<{}}{:.<{}}] {}/{} {:.0f}s left {}\033[K",
               options_.label,
               "",
               filled,
               "",
               kWidth - filled,
               done,
               options_.total,
               left,
               note);
    open_line_ = true;
    drawn_ = now;
    return;
  }
  const int64_t tenth = done * 10 / options_.total;
  constexpr std::chrono::seconds kLongestSilence{5};
  if (tenth == last_tenth_ && now - drawn_ < kLongestSilence) return;
  last_tenth_ = tenth;
  drawn_ = now;
  fmt::print(
      stderr, "{}: {}/{} ({:.0f}s) {}\n", options_.label, done, options_.total, elapsed, note);
}

}  // namespace rehearse
