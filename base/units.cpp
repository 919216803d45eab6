#include "base/units.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <span>

#include <fmt/format.h>

#include "base/errors.h"

namespace rehearse {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

// "12.5 name" -> 12.5 * factor. The number is plain decimal or exponent form, not negative; the
// space before the unit is optional.
std::optional<double> parse_quantity(std::string_view text, std::span<const Unit> units) {
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return std::nullopt;
  std::string_view unit(rest, static_cast<size_t>(end - rest));
  if (unit.starts_with(' ')) unit.remove_prefix(1);
  for (const Unit& u : units) {
    if (u.name != unit) continue;
    const double value = number * u.factor;
    return std::min(value, std::numeric_limits<double>::max());  // a range check follows
  }
  return std::nullopt;
}

constexpr Unit kTimes[] = {
    {"ps", 1e-12}, {"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"min", 60}, {"h", 3600}};
constexpr Unit kSizes[] = {{"B", 1},
                           {"kB", 1e3},
                           {"MB", 1e6},
                           {"GB", 1e9},
                           {"TB", 1e12},
                           {"KiB", 1024.0},
                           {"MiB", 1048576.0},
                           {"GiB", 1073741824.0},
                           {"TiB", 1099511627776.0}};
constexpr Unit kRates[] = {{"B/s", 1},
                           {"kB/s", 1e3},
                           {"MB/s", 1e6},
                           {"GB/s", 1e9},
                           {"TB/s", 1e12},
                           {"Mbit/s", 1e6 / 8},
                           {"Gbit/s", 1e9 / 8},
                           {"Tbit/s", 1e12 / 8}};
constexpr Unit kFlopRates[] = {
    {"MFLOP/s", 1e6}, {"GFLOP/s", 1e9}, {"TFLOP/s", 1e12}, {"PFLOP/s", 1e15}};
constexpr Unit kTokens[] = {
    {"tokens", 1}, {"K tokens", 1e3}, {"M tokens", 1e6}, {"B tokens", 1e9}, {"T tokens", 1e12}};

std::string scaled(double value, std::span<const Unit> units) {
  if (value == 0) return "0";
  const Unit* best = &units.front();
  for (const Unit& u : units) {
    if (std::abs(value) >= u.factor) best = &u;
  }
  return fmt::format("{:.4g} {}", value / best->factor, best->name);
}

constexpr Unit kTimesShown[] = {{"ps", 1e-12}, {"ns", 1e-9}, {"us", 1e-6}, {"ms", 1e-3}, {"s", 1}};
constexpr Unit kFlopsShown[] = {
    {"FLOP", 1}, {"MFLOP", 1e6}, {"GFLOP", 1e9}, {"TFLOP", 1e12}, {"PFLOP", 1e15}, {"EFLOP", 1e18}};

}  // namespace

std::optional<Duration> parse_duration(std::string_view text) {
  const auto s = parse_quantity(text, kTimes);
  if (!s || *s > 9e6) return std::nullopt;
  return Duration::seconds(*s);
}

std::optional<Bytes> parse_bytes(std::string_view text) {
  const auto b = parse_quantity(text, kSizes);
  if (!b || *b > 9e18) return std::nullopt;
  return Bytes(static_cast<int64_t>(std::nearbyint(*b)));
}

std::optional<BytesPerSecond> parse_bytes_per_second(std::string_view text) {
  const auto r = parse_quantity(text, kRates);
  return r ? std::optional(BytesPerSecond(*r)) : std::nullopt;
}

std::optional<FlopsPerSecond> parse_flops_per_second(std::string_view text) {
  const auto r = parse_quantity(text, kFlopRates);
  return r ? std::optional(FlopsPerSecond(*r)) : std::nullopt;
}

std::optional<double> parse_tokens(std::string_view text) {
  return parse_quantity(text, kTokens);
}

std::string to_string(Duration d) {
  return scaled(d.seconds(), kTimesShown);
}
std::string to_string(Bytes b) {
  return scaled(static_cast<double>(b.count()), std::span(kSizes).first(5));
}
std::string to_string(BytesPerSecond r) {
  return scaled(r.value(), std::span(kRates).first(5));
}
std::string to_string(FlopsPerSecond r) {
  return scaled(r.value(), kFlopRates);
}
std::string to_string(Flops f) {
  return scaled(f.count(), kFlopsShown);
}

}  // namespace rehearse
