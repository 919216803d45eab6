#include "sim/calibration.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/yaml.h"

namespace rehearse {
namespace {

constexpr std::string_view kFormat = "rehearse-calibration 1";

// Times in nanoseconds with three decimals: exact picoseconds.
std::string ns(Duration d) {
  return fmt::format("{}.{:03} ns", d.picoseconds() / 1000, d.picoseconds() % 1000);
}

KernelTime between(const KernelCall& a,
                   const KernelTime& ta,
                   const KernelCall& b,
                   const KernelTime& tb,
                   int64_t rows) {
  const double span = static_cast<double>(b.shape[kRowsEntry] - a.shape[kRowsEntry]);
  const double share = static_cast<double>(rows - a.shape[kRowsEntry]) / span;
  const auto mix = [&](Duration x, Duration y) {
    return Duration::seconds(x.seconds() * (1 - share) + y.seconds() * share);
  };
  return {.alone = mix(ta.alone, tb.alone),
          .low = mix(ta.low, tb.low),
          .high = mix(ta.high, tb.high),
          .busy = mix(ta.busy, tb.busy)};
}

KernelTime in_proportion(const KernelTime& t, double factor) {
  const auto scale = [&](Duration d) { return Duration::seconds(d.seconds() * factor); };
  return {
      .alone = scale(t.alone), .low = scale(t.low), .high = scale(t.high), .busy = scale(t.busy)};
}

}  // namespace

Calibration load_calibration(const std::string& path) {
  YamlMap top = YamlFile::load(path).root();
  Calibration c;
  const std::string format = top.text("format");
  if (format != kFormat) {
    top.fail("format", fmt::format("expected '{}', found '{}'", kFormat, format));
  }
  c.machine = top.text("machine");
  c.cores = top.integer("cores", {.min = 1, .max = 1'000'000});
  c.build = top.text("build");
  c.lane_handover = top.duration("lane_handover");
  const int64_t count = top.integer("kernel_count", {.min = 0});
  std::vector<YamlMap> entries = top.maps("kernels");
  if (static_cast<int64_t>(entries.size()) != count) {
    top.fail("kernel_count",
             fmt::format("{} kernels announced, {} found: the file was cut off; run `rehearse "
                         "calibrate` again",
                         count,
                         entries.size()));
  }
  for (YamlMap& e : entries) {
    const std::string name = e.text("kernel");
    const auto kernel = kernel_named(name);
    if (!kernel) {
      e.fail("kernel",
             fmt::format("unknown kernel '{}'; known: {}", name, fmt::join(kernel_names(), ", ")));
    }
    KernelCall call{.kernel = *kernel};
    const auto shape = e.integers("shape", {.min = 1});
    const auto names = shape_names(*kernel);
    if (shape.size() != names.size()) {
      e.fail("shape", fmt::format("{} has the shape [{}]", name, fmt::join(names, ", ")));
    }
    std::copy(shape.begin(), shape.end(), call.shape.begin());
    const KernelTime time{.alone = e.duration("alone"),
                          .low = e.duration("low"),
                          .high = e.duration("high"),
                          .busy = e.duration("busy")};
    if (!c.kernels.emplace(call, time).second) {
      e.fail("shape", fmt::format("{} stands twice", to_string(call)));
    }
    e.finish();
  }
  top.finish();
  return c;
}

std::string print_calibration(const Calibration& c) {
  std::string out = fmt::format(
      "# Measured by `rehearse calibrate`. alone: median time of one call, nothing else running;\n"
      "# low, high: 5th and 95th percentile; busy: median while all cores run the same kernel.\n"
      "format: {}\nmachine: {}\ncores: {}\nbuild: {}\nlane_handover: {}\nkernel_count: {}\n"
      "kernels:{}\n",
      kFormat,
      c.machine,
      c.cores,
      c.build,
      ns(c.lane_handover),
      c.kernels.size(),
      c.kernels.empty() ? " []" : "");
  for (const auto& [call, t] : c.kernels) {
    const size_t used = shape_names(call.kernel).size();
    out += fmt::format(
        "  - {{kernel: {}, shape: [{}], alone: {}, low: {}, high: {}, busy: {}}}\n",
        name_of(call.kernel),
        fmt::join(call.shape.begin(), call.shape.begin() + static_cast<std::ptrdiff_t>(used), ", "),
        ns(t.alone),
        ns(t.low),
        ns(t.high),
        ns(t.busy));
  }
  return out;
}

std::optional<KernelTime> interpolate(const Calibration& calibration, const KernelCall& call) {
  const auto exact = calibration.kernels.find(call);
  if (exact != calibration.kernels.end()) return exact->second;
  // Calls are ordered by kernel, then rows: the neighbours of the same other entries.
  using Entry = std::map<KernelCall, KernelTime>::const_iterator;
  std::optional<Entry> below, above;
  KernelCall first{.kernel = call.kernel};
  for (Entry e = calibration.kernels.lower_bound(first);
       e != calibration.kernels.end() && e->first.kernel == call.kernel;
       ++e) {
    KernelCall same_rows = e->first;
    same_rows.shape[kRowsEntry] = call.shape[kRowsEntry];
    if (same_rows != call) continue;
    if (e->first.shape[kRowsEntry] < call.shape[kRowsEntry]) {
      below = e;
    } else {
      above = e;
      break;
    }
  }
  const int64_t rows = call.shape[kRowsEntry];
  if (below && above) {
    return between((*below)->first, (*below)->second, (*above)->first, (*above)->second, rows);
  }
  if (!below && !above) return std::nullopt;
  const Entry nearest = below ? *below : *above;
  return in_proportion(
      nearest->second,
      static_cast<double>(rows) / static_cast<double>(nearest->first.shape[kRowsEntry]));
}

}  // namespace rehearse
