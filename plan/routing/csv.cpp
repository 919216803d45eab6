// Choices as llama.cpp lists them: layer,expert, one to a line.

#include <map>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/file.h"
#include "plan/routing/foreign.h"

namespace rehearse {

ForeignTrace read_choices_csv(const std::string& path, int64_t experts, int64_t active) {
  const std::string text = read_file(path);
  const auto fail = [&](size_t byte, const std::string& what) {
    throw InputError(fmt::format("{}: byte {}: {}", path, byte, what));
  };
  std::map<int64_t, std::vector<uint16_t>> layers;
  size_t at = 0;
  constexpr int64_t kMostExperts = 65'536;
  const auto number = [&](size_t end, const char* what) {
    int64_t n = 0;
    const size_t begin = at;
    while (at < end && static_cast<unsigned>(text[at] - '0') < 10 && n < kMostExperts) {
      n = n * 10 + (text[at++] - '0');
    }
    if (at == begin) fail(at, fmt::format("expected {}, a whole number", what));
    return n;
  };
  if (text.starts_with("layer,expert\n")) at = text.find('\n') + 1;
  while (at < text.size()) {
    const size_t begin = at;
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) {
      fail(text.size(), "the last line is cut off: it has no line's end");
    }
    const int64_t layer = number(end, "a layer");
    if (at == end || text[at] != ',') fail(at, "expected ','");
    ++at;
    const int64_t expert = number(end, "an expert");
    if (at < end && text[at] == '\r') ++at;
    if (at != end) fail(at, "expected the line's end");
    if (expert >= experts) {
      fail(begin, fmt::format("chooses expert {} of {}", expert, experts));
    }
    layers[layer].push_back(static_cast<uint16_t>(expert));
    at = end + 1;
  }
  if (layers.empty()) fail(0, "no choices");
  const size_t size = layers.begin()->second.size();
  RecordedStep step{.shape = {.micro_batches = 1,
                              .layers = static_cast<int64_t>(layers.size()),
                              .tokens = static_cast<int64_t>(size) / active,
                              .active = active,
                              .experts = experts},
                    .number = 0,
                    .choices = {}};
  for (const auto& [layer, choices] : layers) {
    if (choices.size() != size || size % static_cast<size_t>(active) != 0) {
      throw InputError(fmt::format("{}: layer {} has {} choices; expected {}, tokens of {} each",
                                   path,
                                   layer,
                                   choices.size(),
                                   size,
                                   active));
    }
    const std::vector<int32_t> wide(choices.begin(), choices.end());
    if (const std::string wrong = why_not_choices(wide, active, experts); !wrong.empty()) {
      const std::string where = fmt::format("of layer {}", layer);
      throw InputError(fmt::format("{}: {}", path, fmt::format(fmt::runtime(wrong), where)));
    }
    step.choices.insert(step.choices.end(), choices.begin(), choices.end());
  }
  ForeignTrace trace;
  trace.steps.push_back(std::move(step));
  trace.about["source"] = "layer,expert";
  return trace;
}

}  // namespace rehearse
