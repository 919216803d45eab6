#pragma once
// Division of whole numbers that rounds up.

#include <cstdint>

namespace rehearse {

// Both for a >= 0, b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

}  // namespace rehearse
