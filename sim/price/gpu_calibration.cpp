#include "sim/price/gpu_calibration.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/yaml.h"

namespace rehearse {
namespace {

constexpr std::string_view kFormatLine = "rehearse-gpu-calibration 1";

std::optional<LinkMeasurement> read_link(YamlMap& top, std::string_view key) {
  if (!top.has(key)) return std::nullopt;
  YamlMap map = top.map(key);
  LinkMeasurement link{map.rate("bandwidth"), std::nullopt};
  if (map.has("latency")) link.latency = map.duration("latency");
  if (link.bandwidth.value() <= 0) map.fail("bandwidth", "expected a rate above 0");
  map.finish();
  return link;
}

GpuEntry read_entry(YamlMap& map) {
  GpuEntry e;
  if (map.has("op")) {
    e.op = op_named(map.text("op"));
    if (!e.op) map.fail("op", "expected an op with its pass, such as attn.F or mlp.W");
  }
  const std::string kind = map.text("work");
  if (!work_kind_named(kind)) {
    map.fail("work", fmt::format("unknown kind of work '{}'; such as product, cast, data", kind));
  }
  e.kind = *work_kind_named(kind);
  if (e.kind == WorkKind::kProduct) {
    const std::string family = map.text("family");
    const std::string format = map.text("format");
    if (!family_named(family)) {
      map.fail("family", "expected dense, grouped, weight or grouped_weight");
    }
    if (!format_named(format)) map.fail("format", "expected fp8 or bf16");
    e.family = *family_named(family);
    e.format = *format_named(format);
    if (map.has("shape")) {
      const std::vector<int64_t> shape = map.integers("shape", {.min = 1, .max = 1'000'000'000});
      if (shape.size() != 4) map.fail("shape", "expected [groups, m, n, k]");
      e.groups = shape[0];
      e.m = shape[1];
      e.n = shape[2];
      e.k = shape[3];
    }
  }
  e.sms = map.integer("sms", {.min = 0, .max = 1'000'000}, 0);
  e.beside = map.boolean("beside", false);
  e.demand = map.number("demand", {.min = 0, .max = 1}, 0);
  e.source = map.text("source", "");
  const std::vector<double> us = map.numbers("us", {.min = 0, .max = 1e9});
  const auto list = [&](std::string_view key) {
    std::vector<double> values(us.size(), 0);
    if (!map.has(key)) return values;
    values = map.numbers(key, {.min = 0, .max = 1e12});
    if (values.size() != us.size()) {
      map.fail(key, fmt::format("{} numbers beside {} times", values.size(), us.size()));
    }
    return values;
  };
  const std::vector<double> gflop = list("gflop");
  const std::vector<double> mb = list("mb");
  if (us.empty()) map.fail("us", "expected at least one time");
  for (size_t i = 0; i < us.size(); ++i) {
    e.samples.push_back({Duration::microseconds(us[i]),
                         Flops(gflop[i] * 1e9),
                         Bytes(static_cast<int64_t>(std::llround(mb[i] * 1e6)))});
  }
  const bool needs_flops = e.kind == WorkKind::kProduct || e.kind == WorkKind::kAttention;
  if (needs_flops && e.op && !is_cell_compute(e.op->first))
    map.fail("work", "an all-to-all has no such work");
  for (const GpuEntry::Sample& s : e.samples) {
    if (needs_flops && s.flops.count() <= 0) map.fail("gflop", "expected numbers above 0");
    const bool time_alone = e.kind == WorkKind::kGap || e.kind == WorkKind::kWaiting;
    if (!time_alone) {
      if (s.bytes.count() <= 0) map.fail("mb", "expected numbers above 0");
      if (s.time <= Duration()) map.fail("us", "expected times above 0");
    }
  }
  map.finish();
  return e;
}

}  // namespace

bool is_gpu_calibration(std::string_view text) {
  return format_line(text).find(kFormatLine) != std::string_view::npos;
}

namespace {

GpuCalibration read_calibration(YamlMap top) {
  const std::string format = top.text("format");
  if (format != kFormatLine) {
    top.fail("format", fmt::format("expected '{}', found '{}'", kFormatLine, format));
  }
  GpuCalibration c;
  c.device = top.text("device");
  c.source = top.text("source", "");
  c.sms = top.integer("sms", {.min = 1, .max = 10'000});
  c.communication_sms = top.integer("communication_sms", {.min = 0, .max = c.sms - 1});
  c.peaks = {top.flop_rate("peak_bf16"), top.flop_rate("peak_fp8"), top.rate("memory_bandwidth")};
  c.copy = top.rate("copy");
  if (c.peaks.bf16.value() <= 0) top.fail("peak_bf16", "expected a rate above 0");
  if (c.peaks.fp8.value() <= 0) top.fail("peak_fp8", "expected a rate above 0");
  if (c.peaks.memory.value() <= 0) top.fail("memory_bandwidth", "expected a rate above 0");
  if (c.copy.value() <= 0) top.fail("copy", "expected a rate above 0");
  c.node_link = read_link(top, "node_link");
  c.network = read_link(top, "network");
  if (top.has("copy_per_sm")) {
    c.copy_per_sm = top.rate("copy_per_sm");
    if (c.copy_per_sm->value() <= 0) top.fail("copy_per_sm", "expected a rate above 0");
  }
  const int64_t count = top.integer("entry_count", {.min = 0});
  std::vector<YamlMap> entries = top.maps("entries");
  if (count != static_cast<int64_t>(entries.size())) {
    top.fail(
        "entry_count",
        fmt::format(
            "says {}, but the file holds {}: it was cut off or edited", count, entries.size()));
  }
  for (YamlMap& e : entries) c.entries.push_back(read_entry(e));
  top.finish();
  return c;
}

}  // namespace

GpuCalibration load_gpu_calibration(const std::string& path) {
  return read_calibration(YamlFile::load(path).root());
}

GpuCalibration parse_gpu_calibration(std::string text, const std::string& path) {
  return read_calibration(YamlFile::parse(std::move(text), path).root());
}

std::string print_gpu_calibration(const GpuCalibration& c) {
  const auto link = [](std::string_view name, const std::optional<LinkMeasurement>& l) {
    if (!l) return std::string();
    return fmt::format(
        "{}: {{bandwidth: {:.6g} GB/s{}}}\n",
        name,
        l->bandwidth.value() * 1e-9,
        l->latency ? fmt::format(", latency: {:.6g} us", l->latency->microseconds()) : "");
  };
  std::string out = fmt::format(
      "# Times of GPU kernels by kind of work: `rehearse calibrate --from-trace`.\n"
      "# us: by repetition; gflop, mb: the work done in them, as cost/gpu_work.h counts it.\n"
      "# shape: groups, m over all groups, n, k; none: all products of the op together.\n"
      "# beside: communication kernels held their SMs meanwhile. sms: blocks of the kernel's "
      "grid.\n"
      "# data: an all-to-all's transfer (mb: what a rank's communication SMs copy; demand: share "
      "of\n"
      "# the memory bandwidth that the computation beside it uses); waiting: for other ranks; gap: "
      "between kernels.\n"
      "format: {}\ndevice: {}\nsource: {}\nsms: {}\ncommunication_sms: {}\n"
      "peak_bf16: {:.6g} TFLOP/s\npeak_fp8: {:.6g} TFLOP/s\nmemory_bandwidth: {:.6g} TB/s\n"
      "copy: {:.6g} GB/s\n",
      kFormatLine,
      plain_or_quoted_yaml(c.device),
      quoted_yaml(c.source),
      c.sms,
      c.communication_sms,
      c.peaks.bf16.value() * 1e-12,
      c.peaks.fp8.value() * 1e-12,
      c.peaks.memory.value() * 1e-12,
      c.copy.value() * 1e-9);
  out += link("node_link", c.node_link) + link("network", c.network);
  if (c.copy_per_sm) {
    out += fmt::format("copy_per_sm: {:.6g} GB/s\n", c.copy_per_sm->value() * 1e-9);
  }
  out += fmt::format(
      "entry_count: {}\nentries:{}\n", c.entries.size(), c.entries.empty() ? " []" : "");
  for (const GpuEntry& e : c.entries) {
    std::vector<std::string> us, gflop, mb;
    bool any_flops = false;
    bool any_bytes = false;
    for (const GpuEntry::Sample& s : e.samples) {
      us.push_back(fmt::format("{:.10g}", s.time.microseconds()));
      gflop.push_back(fmt::format("{:.7g}", s.flops.count() * 1e-9));
      mb.push_back(fmt::format("{:.9g}", static_cast<double>(s.bytes.count()) * 1e-6));
      any_flops |= s.flops.count() > 0;
      any_bytes |= s.bytes.count() > 0;
    }
    out += "  - {";
    if (e.op) out += fmt::format("op: {}, ", to_string(*e.op));
    out += fmt::format("work: {}, ", name_of(e.kind));
    if (e.kind == WorkKind::kProduct) {
      out += fmt::format("family: {}, format: {}, ", name_of(e.family), name_of(e.format));
      if (e.m > 0) out += fmt::format("shape: [{}, {}, {}, {}], ", e.groups, e.m, e.n, e.k);
    }
    if (e.sms > 0) out += fmt::format("sms: {}, ", e.sms);
    out += fmt::format("beside: {}, us: [{}]", e.beside, fmt::join(us, ", "));
    if (any_flops) out += fmt::format(", gflop: [{}]", fmt::join(gflop, ", "));
    if (any_bytes) out += fmt::format(", mb: [{}]", fmt::join(mb, ", "));
    if (e.demand > 0) out += fmt::format(", demand: {:.4f}", e.demand);
    if (!e.source.empty()) out += fmt::format(", source: {}", quoted_yaml(e.source));
    out += "}\n";
  }
  return out;
}

GpuCalibration uncalibrated(const Cluster& cluster) {
  double copy = 0;
  if (cluster.copy_per_sm) {
    copy = cluster.copy_per_sm->value() * static_cast<double>(cluster.communication_sms);
  } else {
    if (cluster.node_link) copy += cluster.node_link->bandwidth.value();
    if (cluster.network) copy += cluster.network->bandwidth.value();
  }
  return {
      .device = cluster.name,
      .sms = cluster.sms,
      .communication_sms = cluster.communication_sms,
      .peaks = {cluster.peak, cluster.peak_fp8.value_or(cluster.peak), cluster.memory_bandwidth},
      .copy = BytesPerSecond(copy)};
}

void use_links(Plan& plan, const GpuCalibration& calibration) {
  const auto put = [](std::optional<Link>& link, const std::optional<LinkMeasurement>& measured) {
    if (!link || !measured) return;
    link->bandwidth = measured->bandwidth;
    if (measured->latency) link->latency = *measured->latency;
  };
  put(plan.cluster.node_link, calibration.node_link);
  put(plan.cluster.network, calibration.network);
  if (calibration.copy_per_sm) plan.cluster.copy_per_sm = calibration.copy_per_sm;
}

void write_gpu_calibration(const std::string& path, const GpuCalibration& calibration) {
  const std::string text = print_gpu_calibration(calibration);
  if (print_gpu_calibration(parse_gpu_calibration(text, path)) != text) {
    throw InputError(fmt::format("{}: not written: it would not be read back as it is", path));
  }
  write_file(path, text);
}

}  // namespace rehearse
