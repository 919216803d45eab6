#include "sim/price/calibration.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/yaml.h"

namespace rehearse {
namespace {

const Duration kLongestKernel = Duration::seconds(3600);

constexpr std::string_view kFormat = "rehearse-calibration 2";

// Times in nanoseconds with three decimals: exact picoseconds.
std::string ns(Duration d) {
  return fmt::format("{}.{:03} ns", d.picoseconds() / 1000, d.picoseconds() % 1000);
}

}  // namespace

Calibration load_calibration(const std::string& path) {
  // Read once: it may be a pipe.
  std::string text = read_file(path, kMostYamlBytes);
  if (is_gpu_calibration(text)) {
    return {.gpu = std::make_shared<const GpuCalibration>(
                parse_gpu_calibration(std::move(text), path))};
  }
  if (is_device(text)) return {.device = parse_device(std::move(text), path)};
  return parse_calibration(std::move(text), path);
}

Calibration parse_calibration(std::string text, const std::string& path) {
  YamlMap top = YamlFile::parse(std::move(text), path).root();
  Calibration c;
  const std::string format = top.text("format");
  if (format != kFormat) {
    top.fail("format", fmt::format("expected '{}', found '{}'", kFormat, format));
  }
  c.machine = top.text("machine");
  c.cores = top.integer("cores", {.min = 1, .max = 1'000'000});
  c.build = top.text("build");
  c.sources = top.text("sources");
  c.measured = top.text("measured");
  YamlMap overheads = top.map("overheads");
  c.overheads = {.op_start = overheads.duration("op_start"),
                 .wake_idle = overheads.duration("wake_idle"),
                 .wake_busy = overheads.duration("wake_busy"),
                 .message_idle = overheads.duration("message_idle"),
                 .message_busy = overheads.duration("message_busy"),
                 .collective = overheads.duration("collective")};
  overheads.finish();
  c.drift = top.numbers("drift", {.min = 0.01, .max = 100});
  c.interpolation_error = top.number("interpolation_error", {.min = 0, .max = 10});
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
      e.fail("kernel", fmt::format("unknown kernel '{}'; known: {}", name, kernel_list()));
    }
    KernelCall call{.kernel = *kernel};
    const auto shape = e.integers("shape", {.min = 1});
    const auto names = shape_names(*kernel);
    if (shape.size() != names.size()) {
      e.fail("shape", fmt::format("{} has the shape [{}]", name, fmt::join(names, ", ")));
    }
    std::copy(shape.begin(), shape.end(), call.shape.begin());
    const auto time_of = [&](const char* key) {
      const Duration t = e.duration(key, kLongestKernel);
      if (t == Duration()) e.fail(key, "a kernel takes some time: at least a picosecond");
      return t;
    };
    const KernelTime time{.alone = time_of("alone"),
                          .mean = time_of("mean"),
                          .low = time_of("low"),
                          .high = time_of("high"),
                          .busy = time_of("busy")};
    if (time.low > time.alone || time.alone > time.high) {
      e.fail("alone", "the median lies between the percentiles low and high");
    }
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
      "# Measured by `rehearse calibrate`: times of single kernels and of the runtime's "
      "overheads.\n"
      "# overheads: an op after another one of its lane; a sleeping lane's start after another\n"
      "# lane's op, other cores idle or working; a message beyond its link's time, likewise; a "
      "meeting\n"
      "# of ranks without work.\n"
      "# drift: each round's time over the median round's, mean over kernels.\n"
      "# interpolation_error: root mean square, of shapes held out.\n"
      "# kernels: alone: median time of one call, nothing else running; mean, low, high: its mean, "
      "5th\n"
      "# and 95th percentile; busy: median while all "
      "cores run the same kernel.\n"
      "format: {}\nmachine: {}\ncores: {}\nbuild: {}\nsources: {}\nmeasured: {}\n"
      "overheads: {{op_start: {}, wake_idle: {}, wake_busy: {}, message_idle: {}, "
      "message_busy: {}, collective: {}}}\n"
      "drift: [{:.5f}]\ninterpolation_error: {:.5f}\nkernel_count: {}\nkernels:{}\n",
      kFormat,
      plain_or_quoted_yaml(c.machine),
      c.cores,
      plain_or_quoted_yaml(c.build),
      plain_or_quoted_yaml(c.sources),
      plain_or_quoted_yaml(c.measured),
      ns(c.overheads.op_start),
      ns(c.overheads.wake_idle),
      ns(c.overheads.wake_busy),
      ns(c.overheads.message_idle),
      ns(c.overheads.message_busy),
      ns(c.overheads.collective),
      fmt::join(c.drift, ", "),
      c.interpolation_error,
      c.kernels.size(),
      c.kernels.empty() ? " []" : "");
  for (const auto& [call, t] : c.kernels) {
    const size_t used = shape_names(call.kernel).size();
    out += fmt::format(
        "  - {{kernel: {}, shape: [{}], alone: {}, mean: {}, low: {}, high: {}, busy: "
        "{}}}\n",
        name_of(call.kernel),
        fmt::join(call.shape.begin(), call.shape.begin() + static_cast<std::ptrdiff_t>(used), ", "),
        ns(t.alone),
        ns(t.mean),
        ns(t.low),
        ns(t.high),
        ns(t.busy));
  }
  return out;
}

void write_calibration(const std::string& path, const Calibration& calibration) {
  const std::string text = print_calibration(calibration);
  if (print_calibration(parse_calibration(text, path)) != text) {
    throw InputError(fmt::format("{}: not written: it would not be read back as it is", path));
  }
  write_file(path, text);
}

}  // namespace rehearse
