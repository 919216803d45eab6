#include "sim/import/log_lines.h"

#include <charconv>
#include <cmath>
#include <regex>
#include <sstream>

namespace rehearse {

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> words;
  for (std::string w; in >> w;) words.push_back(w);
  return words;
}

std::vector<LogLine> lines_of(const std::string& text) {
  // Of Open MPI "[1,0]<stdout>:", of srun -l " 0: ", of kubectl a time and "[pod/name]", of
  // container logs "stdout F ", of torchrun "[rank0]:", of pdsh "host: ".
  static const std::regex kTag(
      R"((\[[^\]\s]*\d+,\d+\]<\w+>:?|\s*\d+:(?=\s)|\[(?:default|rank|pod/)[^\]]*\]:?|[\w.-]+:(?=\s+[#\d])) ?)");
  static const std::regex kTime(
      R"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:[\d.,]+(?:Z|[+-]\d\d:?\d\d)? (?:std(?:out|err) [FP] )?)");
  std::vector<LogLine> lines;
  std::istringstream in(text);
  for (std::string raw; std::getline(in, raw);) {
    LogLine line{.number = static_cast<int64_t>(lines.size()) + 1};
    if (!raw.empty() && raw.back() == '\r') raw.pop_back();
    raw.resize(std::min<size_t>(raw.size(), 2000));
    constexpr auto kAtBegin = std::regex_constants::match_continuous;
    for (std::smatch m;
         std::regex_search(raw, m, kTag, kAtBegin) || std::regex_search(raw, m, kTime, kAtBegin);) {
      if (m.size() > 1) line.process += m.str(1);
      raw = m.suffix().str();
    }
    line.process.erase(0, line.process.find_first_not_of(' '));
    line.text = raw;
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace rehearse
