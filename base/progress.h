#pragma once
// Progress of long work, on standard error: one redrawn bar on a terminal, plain lines elsewhere
// (one per tenth of the work, and every five seconds), nothing when quiet.

#include <chrono>
#include <cstdint>
#include <string>

namespace rehearse {

class Progress {
 public:
  struct Options {
    std::string label;
    int64_t total = 0;  // units of work
    bool quiet = false;
  };
  explicit Progress(Options options);
  ~Progress();  // ends the bar's line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // `done` units of work are finished; `note` (such as the current loss) is shown beside.
  void update(int64_t done, const std::string& note = {});

 private:
  Options options_;
  bool terminal_;
  bool open_line_ = false;
  int64_t last_tenth_ = -1;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point drawn_;
};

}  // namespace rehearse
