#pragma once
// Lines of a program's output as they come out of logs: without what launchers put before them.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace rehearse {

// A line without what its launcher put before it.
struct LogLine {
  int64_t number = 0;   // from 1
  std::string process;  // as the launcher says it, or nothing
  std::string text;
};
// Knows mpirun --tag-output, srun -l, kubectl --timestamps and --prefix, container logs, torchrun
// and pdsh.
std::vector<LogLine> lines_of(const std::string& text);

std::vector<std::string> words_of(const std::string& line);

}  // namespace rehearse
