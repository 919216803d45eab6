#pragma once
// Times, sizes and rates as value types. No bare number crosses a function as one of these.
// Time is integer picoseconds, so that order is exact and timelines compare byte for byte;
// conversions round to nearest.

#include <cmath>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/errors.h"

namespace rehearse {

// A sum, product or quotient of the plan's numbers that 64 bits do not hold: times of 106 days,
// sizes of 9.2 exabytes. Defined here: the GPU kernels' programs are built without this folder's
// sources.
[[noreturn, gnu::noinline, gnu::cold]] inline void throw_too_long() {
  throw InputError(
      "the simulated step takes more than 50 days, which 64-bit picoseconds do not hold; is a "
      "bandwidth or a speed far too small, a size or a count far too large?");
}
[[noreturn, gnu::noinline, gnu::cold]] inline void throw_too_large() {
  throw InputError(
      "a size of more than 9.2 exabytes, which 64 bits do not hold; is a size or a count far too "
      "large?");
}

// All arithmetic is checked.
class Duration {
 public:
  constexpr Duration() = default;
  static constexpr Duration picoseconds(int64_t ps) { return Duration(ps); }
  static constexpr Duration nanoseconds(int64_t ns) { return Duration(ns * 1000); }
  // Rounds to the nearest picosecond. Throws InputError where that does not fit (106 days, or NaN).
  static Duration seconds(double s) {
    const double ps = std::nearbyint(s * 1e12);
    if (!(std::abs(ps) < 9.2e18)) throw_too_long();
    return Duration(static_cast<int64_t>(ps));
  }
  static Duration microseconds(double us) { return seconds(us * 1e-6); }

  constexpr int64_t picoseconds() const { return ps_; }
  constexpr double seconds() const { return static_cast<double>(ps_) * 1e-12; }
  constexpr double microseconds() const { return static_cast<double>(ps_) * 1e-6; }

  constexpr auto operator<=>(const Duration&) const = default;
  constexpr Duration operator+(Duration b) const {
    int64_t sum = 0;
    if (__builtin_add_overflow(ps_, b.ps_, &sum)) throw_too_long();
    return Duration(sum);
  }
  constexpr Duration operator-(Duration b) const {
    int64_t difference = 0;
    if (__builtin_sub_overflow(ps_, b.ps_, &difference)) throw_too_long();
    return Duration(difference);
  }
  constexpr Duration& operator+=(Duration b) { return *this = *this + b; }
  constexpr Duration& operator-=(Duration b) { return *this = *this - b; }
  constexpr Duration operator*(int64_t n) const {
    int64_t product = 0;
    if (__builtin_mul_overflow(ps_, n, &product)) throw_too_long();
    return Duration(product);
  }
  // So many times as long, to the nearest picosecond.
  Duration scaled(double factor) const { return seconds(seconds() * factor); }
  constexpr double operator/(Duration b) const {
    return static_cast<double>(ps_) / static_cast<double>(b.ps_);
  }

 private:
  constexpr explicit Duration(int64_t ps) : ps_(ps) {}
  int64_t ps_ = 0;
};

class Bytes {
 public:
  constexpr Bytes() = default;
  constexpr explicit Bytes(int64_t count) : count_(count) {}
  constexpr int64_t count() const { return count_; }
  constexpr auto operator<=>(const Bytes&) const = default;
  constexpr Bytes operator+(Bytes b) const {
    int64_t sum = 0;
    if (__builtin_add_overflow(count_, b.count_, &sum)) throw_too_large();
    return Bytes(sum);
  }
  constexpr Bytes& operator+=(Bytes b) { return *this = *this + b; }
  constexpr Bytes operator*(int64_t n) const {
    int64_t product = 0;
    if (__builtin_mul_overflow(count_, n, &product)) throw_too_large();
    return Bytes(product);
  }

 private:
  int64_t count_ = 0;
};

// A count of floating point operations; a double, since a training run has 1e24 of them.
class Flops {
 public:
  constexpr Flops() = default;
  constexpr explicit Flops(double count) : count_(count) {}
  constexpr double count() const { return count_; }
  constexpr auto operator<=>(const Flops&) const = default;
  constexpr Flops operator+(Flops b) const { return Flops(count_ + b.count_); }
  constexpr Flops& operator+=(Flops b) { return count_ += b.count_, *this; }
  constexpr Flops operator*(double n) const { return Flops(count_ * n); }

 private:
  double count_ = 0;
};

class BytesPerSecond {
 public:
  constexpr BytesPerSecond() = default;
  constexpr explicit BytesPerSecond(double rate) : rate_(rate) {}
  constexpr double value() const { return rate_; }
  constexpr auto operator<=>(const BytesPerSecond&) const = default;

 private:
  double rate_ = 0;
};

class FlopsPerSecond {
 public:
  constexpr FlopsPerSecond() = default;
  constexpr explicit FlopsPerSecond(double rate) : rate_(rate) {}
  constexpr double value() const { return rate_; }
  constexpr auto operator<=>(const FlopsPerSecond&) const = default;

 private:
  double rate_ = 0;
};

inline Duration operator/(Bytes size, BytesPerSecond rate) {
  CHECK(rate.value() > 0) << "a transfer needs a positive rate";
  return Duration::seconds(static_cast<double>(size.count()) / rate.value());
}
inline Duration operator/(Flops work, FlopsPerSecond rate) {
  CHECK(rate.value() > 0) << "a computation needs a positive rate";
  return Duration::seconds(work.count() / rate.value());
}

// Parse a quantity with its unit: "3.7 us", "64 MiB", "50 GB/s", "400 Gbit/s", "990 TFLOP/s",
// "14.8T tokens". Nothing is returned for anything else, a bare number included.
std::optional<Duration> parse_duration(std::string_view text);
std::optional<Bytes> parse_bytes(std::string_view text);
std::optional<BytesPerSecond> parse_bytes_per_second(std::string_view text);
std::optional<FlopsPerSecond> parse_flops_per_second(std::string_view text);
std::optional<double> parse_tokens(std::string_view text);

// For people: three or four significant digits and the unit that suits the size.
std::string to_string(Duration d);
std::string to_string(Bytes b);
std::string to_string(BytesPerSecond r);
std::string to_string(FlopsPerSecond r);
std::string to_string(Flops f);

}  // namespace rehearse
