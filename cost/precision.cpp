#include "cost/precision.h"

#include <array>

#include "base/integers.h"

namespace rehearse {

const PrecisionBytes& bytes_of(Precision precision) {
  static constexpr std::array<PrecisionBytes, kPrecisions.size()> kTable = {{
      {.precision = Precision::kFp32, .linears = {}},
      {.precision = Precision::kBf16,
       .weight = 2,
       .master = 4,
       .moment = 4,
       .activation = 2,
       .message = 2,
       .linears = Format::kBf16},
      // Report, section 3.3: moments BF16, activations cached mostly FP8, messages that are sums
      // BF16.
      {.precision = Precision::kFp8,
       .weight = 1,
       .master = 4,
       .moment = 2,
       .activation = 1,
       .message = 2,
       .kept_input = 1,
       .kept_output_input = 1.5,
       .linears = Format::kFp8},
  }};
  static_assert([] {
    for (size_t i = 0; i < kTable.size(); ++i) {
      if (static_cast<size_t>(kTable[i].precision) != i) return false;
    }
    return true;
  }());
  return kTable.at(static_cast<size_t>(precision));
}

int64_t dispatched_bytes(Precision precision, int64_t hidden) {
  constexpr int64_t kPerScale = 128;
  const bool scaled = precision == Precision::kFp8;
  return hidden * bytes_of(precision).activation + (scaled ? ceil_div(hidden, kPerScale) * 4 : 0);
}

std::string_view name_of(Precision precision) {
  return kPrecisions[precision];
}

}  // namespace rehearse
