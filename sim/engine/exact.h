#pragma once
// Work and rates as whole numbers of 2^-64 of a unit: what has been done by some moment is then the
// same to the last bit however many steps the clock came in, and so is every rounding to a
// picosecond. That is why worlds in which many ranks do the same can be told by one of them.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace rehearse {

__extension__ using Exact = __int128;  // units of work x 2^64

constexpr double kExactScale = 0x1p64;
constexpr Exact kMostExact = static_cast<Exact>(~static_cast<unsigned __int128>(0) >> 1);

// REQUIRES: 0 <= work < 2^62.
inline Exact to_exact(double work) {
  return static_cast<Exact>(work * kExactScale);
}
inline double from_exact(Exact work) {
  return static_cast<double>(work) * 0x1p-64;
}

// A rate in units per picosecond, of 32 bits behind its first: sums of other rates were taken from
// a capacity to come to it, and the bits that hang on their order are not among these.
inline Exact exact_rate(double rate) {
  constexpr uint64_t kDropped = (uint64_t{1} << 20) - 1;
  const uint64_t bits = (std::bit_cast<uint64_t>(rate) + (kDropped + 1) / 2) & ~kDropped;
  const int shift = static_cast<int>(bits >> 52) - 1023 + 64 - 52;
  const auto digits = static_cast<Exact>((bits & ((uint64_t{1} << 52) - 1)) | uint64_t{1} << 52);
  if (shift < 0) return shift < -52 ? 1 : std::max<Exact>(1, digits >> -shift);
  return digits << std::min(shift, 72);
}

// work / rate, rounded to nearest, up where it is halfway. REQUIRES: rate > 0, work >= 0, and a
// quotient below 2^62.
inline int64_t rounded_ratio(Exact work, Exact rate) {
  auto ratio = static_cast<int64_t>(static_cast<double>(work) / static_cast<double>(rate) + 0.5);
  Exact rest = work - rate * ratio;
  for (; rest >= rate - rest; rest -= rate) ++ratio;
  for (; rest < -rate - rest; rest += rate) --ratio;
  return ratio;
}

}  // namespace rehearse
