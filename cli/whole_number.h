#pragma once
// Whole numbers of options and of other programs' arguments.

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>

namespace rehearse::cli {

// Of the whole text, where it is one.
inline std::optional<int64_t> whole_number(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace rehearse::cli
