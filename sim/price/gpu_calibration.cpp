#include "sim/price/gpu_calibration.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/file.h"
#include "base/statistics.h"
#include "base/yaml.h"
#include "plan/program/op.h"

namespace rehearse {
namespace {

constexpr std::string_view kFormatLine = "rehearse-gpu-calibration 1";

bool is_exchange_kind(WorkKind k) {
  return k == WorkKind::kData || k == WorkKind::kWaiting;
}
bool is_memory_kind(WorkKind k) {
  return k != WorkKind::kProduct && k != WorkKind::kAttention && !is_exchange_kind(k) &&
         k != WorkKind::kGap;
}
bool is_compute(const GpuEntry& e) {
  return !e.op || is_cell_compute(e.op->first);
}

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
  if (needs_flops && e.op && !is_compute(e)) map.fail("work", "an all-to-all has no such work");
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

// How much longer a request waits at a server that is busy for such a share of the time (M/M/1).
double queueing(double busy) {
  const double most = std::min(busy, 0.95);
  return most / (1 - most);
}

double seconds(const GpuEntry& e) {
  std::vector<double> times;
  for (const GpuEntry::Sample& s : e.samples) times.push_back(s.time.seconds());
  return median(times);
}

double sm_share(int64_t sms, int64_t communication) {
  return static_cast<double>(sms) / static_cast<double>(std::max<int64_t>(1, sms - communication));
}

}  // namespace

bool is_gpu_calibration(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  for (int i = 0; i < 100 && std::getline(file, line); ++i) {
    if (line.starts_with("format:")) return line.find(kFormatLine) != std::string::npos;
  }
  return false;
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
      "format: {}\ndevice: {}\nsource: \"{}\"\nsms: {}\ncommunication_sms: {}\n"
      "peak_bf16: {:.6g} TFLOP/s\npeak_fp8: {:.6g} TFLOP/s\nmemory_bandwidth: {:.6g} TB/s\n"
      "copy: {:.6g} GB/s\n",
      kFormatLine,
      c.device,
      c.source,
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
    if (!e.source.empty()) out += fmt::format(", source: \"{}\"", e.source);
    out += "}\n";
  }
  return out;
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

// Median over repetitions of measured over ideal time, on the device that was measured.
double GpuCosts::entry_factor(const GpuEntry& e) const {
  std::vector<double> factors;
  for (const GpuEntry::Sample& s : e.samples) {
    const GpuTask task{.kind = e.kind, .flops = s.flops, .bytes = s.bytes, .format = e.format};
    factors.push_back(s.time.seconds() / ideal_seconds(task, calibration_.peaks));
  }
  return median(factors);
}

GpuCosts::GpuCosts(const GpuCalibration& calibration, const Cluster& target)
    : calibration_(calibration) {
  peaks_ = {target.peak, target.peak_fp8.value_or(FlopsPerSecond()), target.memory_bandwidth};
  same_device_ =
      peaks_.bf16 == calibration_.peaks.bf16 && peaks_.memory == calibration_.peaks.memory;
  reference_share_ = sm_share(calibration_.sms, calibration_.communication_sms);
  share_ = sm_share(target.sms, target.communication_sms);
  // Every byte that communication SMs copy is read and written.
  const auto left = [](double copy, BytesPerSecond memory) {
    return 1 - std::min(0.5, 2 * copy / memory.value());
  };
  reference_memory_ = left(calibration_.copy.value(), calibration_.peaks.memory);
  const double copy = target.copy_per_sm ? target.copy_per_sm->value() *
                                               static_cast<double>(target.communication_sms)
                                         : calibration_.copy.value();
  memory_ = left(copy, target.memory_bandwidth);

  // Products measured both ways tell what contention is.
  std::vector<double> ratios;
  for (const GpuEntry& a : calibration_.entries) {
    if (a.kind != WorkKind::kProduct || a.beside || a.m == 0) continue;
    for (const GpuEntry& b : calibration_.entries) {
      if (b.kind != WorkKind::kProduct || !b.beside || b.family != a.family || b.n != a.n ||
          b.k != a.k || b.groups != a.groups) {
        continue;
      }
      ratios.push_back(entry_factor(b) / entry_factor(a) / reference_share_);
    }
  }
  if (!ratios.empty()) contention_ = std::max(1.0, median(ratios));
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kProduct) continue;
    const double factor = entry_factor(e);
    products_.push_back({&e, e.beside ? factor : factor * reference_share_ * contention_});
  }
  double gaps = 0;
  double work = 0;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.op && is_compute(e) && e.beside) (e.kind == WorkKind::kGap ? gaps : work) += seconds(e);
  }
  if (work > 0) gap_share_ = gaps / work;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kGap || !e.op) continue;
    gaps_[static_cast<size_t>(e.op->first)][static_cast<size_t>(e.op->second)] = seconds(e);
  }
  find_other_factors();
  find_spreads();
}

void GpuCosts::find_spreads() {
  // Repetition by repetition, all compute work over its median.
  size_t repetitions = SIZE_MAX;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.beside && is_compute(e)) repetitions = std::min(repetitions, e.samples.size());
  }
  if (repetitions != SIZE_MAX && repetitions > 1) {
    std::vector<double> sums(repetitions, 0);
    for (const GpuEntry& e : calibration_.entries) {
      if (!e.beside || !is_compute(e) || e.kind == WorkKind::kGap) continue;
      for (size_t i = 0; i < repetitions; ++i) {
        const GpuEntry::Sample& s = e.samples[i];
        const GpuTask task{.kind = e.kind, .flops = s.flops, .bytes = s.bytes, .format = e.format};
        const double ideal = ideal_seconds(task, calibration_.peaks);
        // At the median's work, so that rows do not count as spread.
        sums[i] += ideal > 0 ? s.time.seconds() / ideal / entry_factor(e) * seconds(e) : 0;
      }
    }
    // Nothing but gaps tells no spread.
    const bool told = std::all_of(sums.begin(), sums.end(), [](double s) { return s > 0; });
    double mean = 0;
    if (!told) sums.assign(repetitions, 1);
    for (const double s : sums) mean += std::log(s) / static_cast<double>(repetitions);
    double squares = 0;
    for (const double s : sums) squares += (std::log(s) - mean) * (std::log(s) - mean);
    repetition_spread_ = std::sqrt(squares / static_cast<double>(repetitions - 1));
  }
  // Every product told from the others.
  double squares = 0;
  int64_t count = 0;
  for (const Factor& f : products_) {
    const GpuEntry& e = *f.entry;
    if (e.m == 0 || !e.op) continue;
    const GpuTask task{
        .family = e.family, .format = e.format, .groups = e.groups, .m = e.m, .n = e.n, .k = e.k};
    bool exact = false;
    const double told = product_factor(OpKind::kCell, Pass::kNone, task, &f, &exact);
    if (told <= 0) continue;
    squares += std::log(told / f.beside) * std::log(told / f.beside);
    ++count;
  }
  if (count > 0) transfer_error_ = std::sqrt(squares / static_cast<double>(count));
}

double GpuCosts::product_factor(
    OpKind op, Pass pass, const GpuTask& task, const Factor* without, bool* exact) const {
  const auto of_op = [&](const GpuEntry& e) { return e.op && *e.op == std::pair(op, pass); };
  // All of the op's products together.
  for (const Factor& f : products_) {
    if (f.entry->m == 0 && of_op(*f.entry)) {
      *exact = f.entry->format == task.format;
      return f.beside;
    }
  }
  const auto fallback = [](Family f) -> std::optional<Family> {
    if (f == Family::kGroupedWeight) return Family::kWeight;
    if (f == Family::kGrouped || f == Family::kWeight) return Family::kDense;
    return std::nullopt;
  };
  // Its shape but for the rows: the op's own first, then what was measured beside communication.
  const Factor* best = nullptr;
  for (const Factor& f : products_) {
    const GpuEntry& e = *f.entry;
    if (&f == without || e.family != task.family || e.m == 0 || e.n != task.n || e.k != task.k ||
        e.groups != task.groups || e.m >= 2 * task.m || task.m >= 2 * e.m) {
      continue;
    }
    const auto rank = [&](const GpuEntry& x) { return (of_op(x) ? 2 : 0) + (x.beside ? 1 : 0); };
    if (best == nullptr || rank(e) > rank(*best->entry)) best = &f;
  }
  if (best != nullptr) {
    *exact = best->entry->beside && best->entry->format == task.format;
    return best->beside;
  }
  for (std::optional<Family> family = task.family; family; family = fallback(*family)) {
    double weights = 0;
    double sum = 0;
    for (const Factor& f : products_) {
      const GpuEntry& e = *f.entry;
      if (&f == without || e.family != *family) continue;
      // A sum over an op's products has no shape of its own.
      double distance = 2;
      if (e.m > 0) {
        const auto term = [](int64_t x, int64_t y) {
          const double d = std::log(static_cast<double>(x) / static_cast<double>(y));
          return d * d;
        };
        distance = term(std::max<int64_t>(1, e.m / e.groups),
                        std::max<int64_t>(1, task.m / std::max<int64_t>(1, task.groups))) +
                   term(e.n, task.n) + term(e.k, task.k);
      }
      const double weight = (e.beside ? 10 : 1) / (0.05 + distance);
      weights += weight;
      sum += weight * std::log(f.beside);
    }
    if (weights > 0) return std::exp(sum / weights);
  }
  return 0;
}

double GpuCosts::memory_factor(OpKind op, Pass pass, WorkKind kind, bool* exact) const {
  const auto pooled = [&](auto use) {
    double measured = 0;
    double ideal = 0;
    for (const GpuEntry& e : calibration_.entries) {
      if (!use(e)) continue;
      // Beside communication, whichever way it was measured.
      const double t = seconds(e) / (e.beside ? 1 : reference_memory_);
      measured += t;
      ideal += seconds(e) / entry_factor(e);
    }
    return ideal > 0 ? measured / ideal : 0;
  };
  const double own = pooled(
      [&](const GpuEntry& e) { return e.kind == kind && e.op && *e.op == std::pair(op, pass); });
  if (own > 0) {
    *exact = true;
    return own;
  }
  const WorkKind like = kind == WorkKind::kStream ? WorkKind::kPermute : kind;
  // Small kernels of all sorts have no rate of their own.
  const double of_kind = like == WorkKind::kElementwise ? 0 : pooled([&](const GpuEntry& e) {
    return e.kind == like && is_compute(e);
  });
  if (of_kind > 0) return of_kind;
  return pooled([&](const GpuEntry& e) { return is_memory_kind(e.kind) && is_compute(e); });
}

double GpuCosts::attention_factor(OpKind op, Pass pass, bool* exact) const {
  double sum = 0;
  int64_t count = 0;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kAttention) continue;
    const double factor = entry_factor(e) * (e.beside ? 1 : reference_share_ * contention_);
    if (e.op && *e.op == std::pair(op, pass)) {
      *exact = e.beside;
      return factor;
    }
    sum += factor;
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

GpuCosts::Time GpuCosts::time(OpKind op, Pass pass, const GpuTask& task) const {
  const double ideal = ideal_seconds(task, peaks_);
  Time t;
  if (task.kind == WorkKind::kProduct) {
    bool exact = false;
    const double factor = product_factor(op, pass, task, nullptr, &exact);
    t.known = factor > 0;
    t.alone = (t.known ? factor / (reference_share_ * contention_) : 1) * ideal;
    t.beside = t.alone * share_ * contention_;
    t.measured = exact && same_device_ ? t.beside : 0;
    return t;
  }
  const OtherFactor& other = other_factors_[static_cast<size_t>(op)][static_cast<size_t>(pass)]
                                           [static_cast<size_t>(task.kind)];
  t.alone = other.alone * ideal;
  t.beside = task.kind == WorkKind::kAttention ? t.alone * share_ * contention_ : t.alone / memory_;
  t.known = other.known;
  t.measured = other.exact && same_device_ ? t.beside : 0;
  return t;
}

void GpuCosts::find_other_factors() {
  for (size_t op = 0; op < kOps; ++op) {
    for (size_t pass = 0; pass < kPasses; ++pass) {
      for (size_t kind = 1; kind <= static_cast<size_t>(WorkKind::kStream); ++kind) {
        OtherFactor& f = other_factors_[op][pass][kind];
        const auto o = static_cast<OpKind>(op);
        const auto p = static_cast<Pass>(pass);
        const auto k = static_cast<WorkKind>(kind);
        const bool attention = k == WorkKind::kAttention;
        const double beside =
            attention ? attention_factor(o, p, &f.exact) : memory_factor(o, p, k, &f.exact);
        if (beside <= 0) continue;
        f.known = true;
        f.alone =
            attention ? beside / (reference_share_ * contention_) : beside * reference_memory_;
      }
    }
  }
}

GpuCosts::Time GpuCosts::time(OpKind op, Pass pass, std::span<const GpuTask> tasks) const {
  Time sum;
  for (const GpuTask& task : tasks) {
    const Time t = time(op, pass, task);
    sum.alone += t.alone;
    sum.beside += t.beside;
    sum.measured += t.measured;
  }
  if (tasks.empty()) return sum;
  if (const auto& gap = gaps_[static_cast<size_t>(op)][static_cast<size_t>(pass)]) {
    sum.alone += *gap;
    sum.beside += *gap;
    sum.measured += *gap;
  } else {
    sum.alone *= 1 + gap_share_;
    sum.beside *= 1 + gap_share_;
  }
  return sum;
}

double GpuCosts::demand(const OpTasks& ops) const {
  double bytes = 0;
  double seconds = 0;
  for (const auto& [op, tasks] : ops) {
    for (const GpuTask& t : tasks) bytes += static_cast<double>(t.bytes.count());
    seconds += time(op.first, op.second, tasks).beside;
  }
  return seconds > 0 ? bytes / seconds / peaks_.memory.value() : 0;
}

double GpuCosts::copy_slowdown(OpKind op, Pass pass, double demand) const {
  double of_all = 0;
  int64_t count = 0;
  for (const GpuEntry& e : calibration_.entries) {
    if (e.kind != WorkKind::kData || !e.beside || e.demand <= 0) continue;
    std::vector<double> slower;
    for (const GpuEntry::Sample& s : e.samples) {
      slower.push_back(s.time.seconds() * calibration_.copy.value() /
                       static_cast<double>(s.bytes.count()));
    }
    const double slope = std::max(0.0, median(slower) - 1) / queueing(e.demand);
    if (e.op && *e.op == std::pair(op, pass)) return 1 + slope * queueing(demand);
    of_all += slope;
    ++count;
  }
  return count > 0 ? 1 + of_all / static_cast<double>(count) * queueing(demand) : 1;
}

}  // namespace rehearse
