#include "sim/import/kernel_bench.h"

#include <algorithm>
#include <cmath>
#include <sstream>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"

namespace rehearse {
namespace {

using Json = nlohmann::json;

// One line, which knows its place.
class BenchLine {
 public:
  BenchLine(const std::string& text, const std::string& path, int number)
      : path_(path), number_(number) {
    try {
      json_ = Json::parse(text);
    } catch (const Json::exception&) {
      refuse("no JSON object: the file was cut off, or is not of kernels_bench --json");
    }
    if (!json_.is_object()) refuse("no JSON object");
  }
  [[noreturn]] void refuse(const std::string& why) const {
    throw InputError(fmt::format("{}:{}: {}", path_, number_, why));
  }
  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  std::string text(const char* key) const {
    if (!has(key) || !json_[key].is_string()) refuse(fmt::format("'{}' is no text", key));
    return json_[key];
  }
  bool flag(const char* key) const {
    if (!has(key) || !json_[key].is_boolean()) refuse(fmt::format("'{}' is no true or false", key));
    return json_[key];
  }
  double positive(const char* key) const {
    const double value = has(key) && json_[key].is_number() ? json_[key].get<double>() : 0;
    if (!(value > 0) || !std::isfinite(value)) {
      refuse(fmt::format("'{}' is no positive number", key));
    }
    return value;
  }
  std::vector<int64_t> sizes(const char* key, size_t count) const {
    std::vector<int64_t> list;
    if (has(key) && json_[key].is_array()) {
      for (const Json& value : json_[key]) {
        if (value.is_number_integer() && value > 0) list.push_back(value);
      }
    }
    if (list.size() != count) refuse(fmt::format("'{}' is no list of {} sizes", key, count));
    return list;
  }
  template <class T>
  T named(const char* key, std::optional<T> value) const {
    if (!value) refuse(fmt::format("'{}' is '{}', which is not known", key, text(key)));
    return *value;
  }

 private:
  std::string path_;
  int number_;
  Json json_;
};

GpuEntry entry_of(const BenchLine& line, const GpuCalibration& device) {
  GpuEntry e;
  e.kind = line.named("work", work_kind_named(line.text("work")));
  GpuEntry::Sample sample;
  sample.bytes = Bytes(static_cast<int64_t>(line.positive("bytes")));
  e.source = line.text("case");
  const char* time = "sustained_us";
  if (e.kind == WorkKind::kProduct) {
    e.family = line.named("family", family_named(line.text("family")));
    e.format = line.named("format", format_named(line.text("format")));
    const std::vector<int64_t> shape = line.sizes("shape", 4);
    e.groups = shape[0], e.m = shape[1], e.n = shape[2], e.k = shape[3];
    e.sms = static_cast<int64_t>(line.positive("sms"));
    e.beside = line.flag("beside");
    if (e.sms > device.sms || (!e.beside && e.sms != device.sms)) {
      line.refuse(fmt::format("{} SMs, of the {} that the device has", e.sms, device.sms));
    }
    if (e.beside) time = "beside_spinner_us";
    sample.flops = Flops(line.positive("flops"));
    e.source += ", " + line.text("tiles");
  }
  sample.time = Duration::seconds(line.positive(time) * 1e-6);
  e.source += fmt::format(", {:.0f} MHz", line.positive("clock_mhz"));
  // A kernel faster than its device was not run there. Caches can carry what is read twice, not
  // what is read once.
  const double peak = (e.format == Format::kFp8 ? device.peaks.fp8 : device.peaks.bf16).value();
  if (sample.flops.count() / sample.time.seconds() > peak) {
    line.refuse(
        fmt::format("{} is above the device's peak, {}: the cluster is not of the device that "
                    "was measured",
                    to_string(FlopsPerSecond(sample.flops.count() / sample.time.seconds())),
                    to_string(FlopsPerSecond(peak))));
  }
  const BytesPerSecond moved(static_cast<double>(sample.bytes.count()) / sample.time.seconds());
  if (e.kind != WorkKind::kProduct && moved > device.peaks.memory) {
    line.refuse(
        fmt::format("{} is above the device's memory bandwidth, {}: the cluster is not of the "
                    "device that was measured",
                    to_string(moved),
                    to_string(device.peaks.memory)));
  }
  e.samples = {sample};
  return e;
}

// The same product in another tile shape.
bool same_product(const GpuEntry& a, const GpuEntry& b) {
  return a.kind == WorkKind::kProduct && b.kind == WorkKind::kProduct && a.family == b.family &&
         a.format == b.format && a.groups == b.groups && a.m == b.m && a.n == b.n && a.k == b.k &&
         a.sms == b.sms && a.beside == b.beside;
}

}  // namespace

GpuCalibration parse_kernel_bench(const std::string& text,
                                  const std::string& path,
                                  const Cluster& cluster) {
  GpuCalibration c = uncalibrated(cluster);
  c.source.clear();
  if (!text.empty() && text.back() != '\n') {
    throw InputError(path + ": ends within a line: the run or the copy was cut off");
  }
  std::istringstream in(text);
  int number = 0;
  for (std::string written; std::getline(in, written);) {
    const BenchLine line(written, path, ++number);
    if (line.has("device")) {
      if (!c.source.empty()) line.refuse("a second run begins here");
      c.device = line.text("device");
      if (line.positive("sms") != static_cast<double>(cluster.sms)) {
        line.refuse(fmt::format("a device of {} SMs; those of '{}' have {}",
                                line.positive("sms"),
                                cluster.name,
                                cluster.sms));
      }
      c.source = fmt::format("kernels_bench on an {}, driver {}, device copy {}",
                             c.device,
                             line.text("driver"),
                             to_string(BytesPerSecond(line.positive("copy_gbs") * 1e9)));
      continue;
    }
    if (c.source.empty()) line.refuse("a case before the line that names the device");
    if (line.has("passed") && !line.flag("passed")) {
      line.refuse("'" + line.text("case") + "' failed its check");
    }
    if (!line.has("work")) continue;  // a check
    const GpuEntry e = entry_of(line, c);
    const auto known = std::find_if(c.entries.begin(), c.entries.end(), [&](const GpuEntry& other) {
      return same_product(e, other);
    });
    if (known == c.entries.end()) {
      c.entries.push_back(e);
    } else if (e.samples.front().time < known->samples.front().time) {
      *known = e;
    }
  }
  if (c.entries.empty())
    throw InputError(path + ": no times; expected lines of kernels_bench --json");
  return c;
}

}  // namespace rehearse
