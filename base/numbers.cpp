#include "base/numbers.h"

#include <charconv>
#include <cmath>

namespace rehearse {

std::optional<double> number_of(const std::string& text) {
  double value = 0;
  const auto r = std::from_chars(text.data(), text.data() + text.size(), value);
  if (r.ec != std::errc() || r.ptr != text.data() + text.size() || !std::isfinite(value)) {
    return std::nullopt;
  }
  return value;
}

}  // namespace rehearse
