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
constexpr Exact kMostExact = (((Exact{1} << 126) - 1) << 1) + 1;

// REQUIRES: 0 <= work < 2^62.
inline Exact to_exact(double work) {
  return static_cast<Exact>(work * kExactScale);
}
// REQUIRES: work >= 0.
inline double from_exact(Exact work) {
  return static_cast<double>(static_cast<int64_t>(work >> 64)) +
         static_cast<double>(static_cast<uint64_t>(work)) * 0x1p-64;
}

// A rate in units per picosecond, of 32 bits behind its first: sums of other rates were taken from
// a capacity to come to it, and the bits that hang on their order are not among these.
class ExactRate {
 public:
  ExactRate() = default;  // none
  // REQUIRES: rate > 0.
  explicit ExactRate(double rate) {
    constexpr int kDropped = 20;  // of 52 bits behind the first
    const uint64_t bits = std::bit_cast<uint64_t>(rate) + (uint64_t{1} << (kDropped - 1));
    rounded_ = std::bit_cast<double>(bits >> kDropped << kDropped);
    digits_ = (bits & ((uint64_t{1} << 52) - 1)) >> kDropped | uint64_t{1} << (52 - kDropped);
    shift_ = static_cast<int>(bits >> 52) - 1023 + 64 - (52 - kDropped);
    if (shift_ < 0) {
      digits_ = std::max<uint64_t>(1, shift_ < -63 ? 0 : digits_ >> -shift_);
      shift_ = 0;
    }
  }

  // Done in so long.
  Exact times(int64_t picoseconds) const {
    return static_cast<Exact>(digits_) * picoseconds << shift_;
  }
  // Half of what is done in a picosecond, rounded up.
  Exact half() const { return (times(1) + 1) / 2; }
  // Picoseconds that work takes; nearly.
  double nearly(Exact work) const { return from_exact(work) / rounded_; }
  // The same, rounded to nearest, up where it is halfway. REQUIRES: work >= 0, and below 2^62.
  int64_t picoseconds(Exact work) const {
    const double about = nearly(work) + 0.5;
    auto time = static_cast<int64_t>(about);
    const double beyond = about - static_cast<double>(time);
    const double unsure = 1e-9 + about * 1e-15;
    if (beyond > unsure && beyond < 1 - unsure) return time;
    const Exact rate = times(1);
    Exact rest = work - times(time);
    for (; rest >= rate - rest; rest -= rate) ++time;
    for (; rest < -rate - rest; rest += rate) --time;
    return time;
  }

 private:
  uint64_t digits_ = 0;
  int shift_ = 0;  // of them, to the left
  double rounded_ = 0;
};

}  // namespace rehearse
