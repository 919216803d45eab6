#include "base/json_error.h"

#include <charconv>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/text.h"

namespace rehearse {

namespace {

// The number behind `word`; 0: there is none.
int number_behind(std::string_view text, std::string_view word) {
  const size_t at = text.find(word);
  int number = 0;
  if (at == std::string_view::npos) return 0;
  std::from_chars(text.data() + at + word.size(), text.data() + text.size(), number);
  return number;
}

}  // namespace

void fail_json(const std::string& path, std::string_view what, const std::exception& error) {
  std::string_view text = error.what();
  // "[json.exception.parse_error.101] parse error at line 2, column 28: syntax error while ..."
  if (const size_t end = text.find("] "); text.starts_with('[') && end != std::string_view::npos) {
    text.remove_prefix(end + 2);
  }
  InputError::Place place{.file = path,
                          .line = number_behind(text, "at line "),
                          .column = number_behind(text, ", column ")};
  if (const size_t end = text.find(": "); place.line > 0 && end != std::string_view::npos) {
    text.remove_prefix(end + 2);
  }
  const std::string where =
      place.line > 0 ? fmt::format("{}:{}:{}", path, place.line, place.column) : path;
  constexpr size_t kMost = 200;
  throw InputError(fmt::format("{}: {}: {}", where, what, printable(text, kMost)),
                   std::move(place));
}

}  // namespace rehearse
