#pragma once
// What the check and bench programs print and write.

#include <cstdio>
#include <stdexcept>
#include <string>

#include "kernels/checking/json_line.h"
#include "kernels/checking/outcome.h"
#include "kernels/checking/supervisor.h"

namespace rehearse::kernels {

inline Result result_of(const Outcome& o) {
  char text[160];
  std::snprintf(text, sizeof(text), "%s  %-72s ", o.passed ? "ok  " : "FAIL", o.name.c_str());
  JsonLine line;
  line.add("case", o.name).add("passed", o.passed).add("found", o.found);
  line.add("worst_share_of_bound", o.worst).add("rms_share_of_expected", o.rms);
  return {o.passed, text + o.found, line.text()};
}

// Every result as it comes, so that nothing is lost when the program is ended.
class Report {
 public:
  // json: a file, "-" for standard output, or nothing. Throws std::runtime_error where it cannot be
  // written.
  explicit Report(const std::string& json) {
    if (json == "-") {
      json_ = stdout;
    } else if (!json.empty() && !(json_ = std::fopen(json.c_str(), "w"))) {
      throw std::runtime_error("cannot write " + json);
    }
  }
  ~Report() {
    if (json_ && json_ != stdout) std::fclose(json_);
  }
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void add(const Result& r) {
    ++(r.passed ? passed_ : failed_);
    if (!r.text.empty() && json_ != stdout) std::printf("%s\n", r.text.c_str());
    std::fflush(stdout);
    if (!json_ || r.json.empty()) return;
    std::fprintf(json_, "%s\n", r.json.c_str());
    std::fflush(json_);
  }
  int passed() const { return passed_; }
  int failed() const { return failed_; }

 private:
  std::FILE* json_ = nullptr;
  int passed_ = 0, failed_ = 0;
};

}  // namespace rehearse::kernels
