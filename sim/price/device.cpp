#include "sim/price/device.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/file.h"
#include "base/integers.h"
#include "base/yaml.h"
#include "plan/plan.h"

namespace rehearse {
namespace {

constexpr std::string_view kDeviceFormat = "rehearse-device 1";
constexpr NumberRange kShare{.min = 0.001, .max = 1};
constexpr NumberRange kFactor{.min = 0.1, .max = 20};
constexpr NumberRange kError{.min = 0, .max = 2};

DeviceRules::Shares read_shares(YamlMap& map, std::string_view key) {
  const std::vector<double> both = map.numbers(key, kShare);
  if (both.size() != 2) map.fail(key, "expected [forward, backward]");
  return {both[0], both[1]};
}

DeviceRules read_rules(YamlMap map) {
  DeviceRules r;
  YamlMap sustained = map.map("sustained");
  r.sustained = {.bf16 = sustained.number("bf16", kFactor),
                 .fp8 = sustained.number("fp8", kFactor),
                 .attention = sustained.number("attention", kFactor),
                 .lengthy = sustained.number("lengthy", kFactor)};
  sustained.finish();
  const std::vector<double> pairs = map.numbers("attention_backward", {.min = 0.1, .max = 1e6});
  if (pairs.empty() || pairs.size() % 2 != 0) {
    map.fail("attention_backward", "expected widths of heads, each with its factor behind it");
  }
  for (size_t i = 0; i < pairs.size(); i += 2) {
    r.attention_backward[std::llround(pairs[i])] = pairs[i + 1];
  }
  r.grouped = map.number("grouped", kFactor);
  r.grouped_weight = map.number("grouped_weight", kFactor);
  YamlMap memory = map.map("memory");
  for (const WorkKind kind : work_kinds()) {
    if (is_memory_bound(kind)) r.memory[kind] = read_shares(memory, name_of(kind));
  }
  r.loss = read_shares(memory, "loss");
  r.embedding = read_shares(memory, "embedding");
  memory.finish();
  r.gap = map.duration("gap");
  r.host = map.duration("host");
  r.host_group = map.duration("host_group");
  r.contention = map.number("contention", kFactor);
  YamlMap errors = map.map("errors");
  for (const auto& origin : kOrigins.entries()) {
    r.errors[static_cast<size_t>(origin.value)] = errors.number(origin.name, kError);
  }
  r.common = errors.number("common", kError);
  r.experts = errors.number("experts", kError);
  r.host_error = errors.number("host", kError);
  errors.finish();
  map.finish();
  return r;
}

// A table that the file names, and which of its kernels counts.
struct Chosen {
  std::string path, text, kernel;
};
std::optional<Chosen> read_chosen(YamlMap& tables,
                                  std::string_view key,
                                  const std::string& device_path,
                                  bool of_kernels) {
  if (!tables.has(key)) return std::nullopt;
  YamlMap map = tables.map(key);
  const std::string name = map.text("file");
  const std::filesystem::path path = std::filesystem::path(device_path).parent_path() / name;
  if (!std::filesystem::is_regular_file(path)) {
    map.fail("file", fmt::format("no file '{}'", path.lexically_normal().string()));
  }
  Chosen c{path.lexically_normal().string(), read_file(path.string()), ""};
  if (of_kernels) c.kernel = map.text("kernel");
  map.finish();
  return c;
}

template <typename Rows>
typename Rows::mapped_type take(Rows rows, const Chosen& chosen) {
  const auto found = rows.find(chosen.kernel);
  if (found == rows.end()) {
    throw InputError(fmt::format(
        "{}: has no rows of '{}', which the device's file names", chosen.path, chosen.kernel));
  }
  return std::move(found->second);
}

template <typename Table, typename Call>
DeviceModel::Answer from_table(const Table& table, const Call& call) {
  return {table.time(call), table.holds(call) ? Origin::kMeasured : Origin::kInterpolated};
}

// What `known` holds for the key, worked out where it does not: twice, at worst, by two threads.
template <typename Map, typename Work>
DeviceModel::Answer remembered(std::shared_mutex& mutex,
                               Map& known,
                               const typename Map::key_type& key,
                               const Work& work) {
  {
    const std::shared_lock lock(mutex);
    if (const auto found = known.find(key); found != known.end()) return found->second;
  }
  const DeviceModel::Answer answer = work();
  const std::unique_lock lock(mutex);
  return known.emplace(key, answer).first->second;
}

}  // namespace

DeviceModel::DeviceModel(DeviceFacts facts, std::string source, Tables tables, DeviceRules rules)
    : facts_(std::move(facts)),
      source_(std::move(source)),
      tables_(std::move(tables)),
      rules_(std::move(rules)) {}

DeviceModel::Answer DeviceModel::time(OpKind op, Pass pass, const GpuTask& task) const {
  Answer a = task.kind == WorkKind::kProduct     ? product(task)
             : task.kind == WorkKind::kAttention ? attention(pass, task)
                                                 : streamed(op, pass, task);
  a.time = a.time.scaled(rules_.scaled(task.kind));
  return a;
}

// A weight gradient dw[n,k] over m rows is a product of n rows, k columns and depth m, that adds to
// FP32 sums: of what it moves more than a product writing BF16, a fifth is not hidden, as of other
// traffic (kTrafficNotHidden). Grouped products are one product of all their rows, or, of
// weights, of all their columns side by side, times a factor; rows are whole tiles.
DeviceModel::Answer DeviceModel::product(const GpuTask& task) const {
  const std::optional<ProductTable>& table =
      task.format == Format::kFp8 ? tables_.fp8 : tables_.bf16;
  if (!table) return {ideal_time(task, facts_.peaks), Origin::kIdeal};
  const bool weight = task.family == Family::kWeight || task.family == Family::kGroupedWeight;
  const bool grouped = task.family == Family::kGrouped || task.family == Family::kGroupedWeight;
  const int64_t groups = std::max<int64_t>(1, task.groups);
  int64_t m = task.m;
  double scale = 1;
  if (grouped) {
    // Loads that hardly differ are looked up once.
    constexpr int64_t kTile = 128, kSteps = 4;  // 2^4 in an octave
    m = round_up(m, int64_t{1} << std::max<int64_t>(0, std::ilogb(m) - kSteps));
    const auto rows = static_cast<double>(task.m);
    scale = rows / static_cast<double>(m);
    if (!weight) scale *= 1 + static_cast<double>(groups * kTile / 2) / rows;
    scale *= weight ? rules_.grouped_weight : rules_.grouped;
  }
  const Key key = weight ? Key{task.format, task.n * groups, task.k, ceil_div(m, groups)}
                         : Key{task.format, m, task.n, task.k};
  Answer a = remembered(mutex_, products_, key, [&] {
    const auto& [format, tokens, columns, depth] = key;
    return from_table(*table, ProductCall{tokens, columns, depth});
  });
  const Duration kLengthy = Duration::microseconds(1000);
  const double speed = a.time > kLengthy             ? rules_.sustained.lengthy
                       : task.format == Format::kFp8 ? rules_.sustained.fp8
                                                     : rules_.sustained.bf16;
  a.time = a.time.scaled(scale / speed);
  if (weight) {
    const auto more = static_cast<double>(groups * task.n * task.k * (4 + 4 - 2));
    a.time += Duration::seconds(kTrafficNotHidden * more / facts_.peaks.memory.value());
  }
  if (grouped || weight) a.origin = Origin::kRuled;
  return a;
}

// Forward as measured; backward as many times that as its head's width says. Scores that go through
// memory are products of short depth, which the rule for streams tells better (gpu_tasks counts
// their bytes apart).
DeviceModel::Answer DeviceModel::attention(Pass pass, const GpuTask& task) const {
  if (!task.core || !tables_.attention) {
    // Batched products of s x s by the head's width: half of the peak.
    constexpr double kReached = 0.5;
    return {(task.flops / facts_.peaks.bf16).scaled(1 / kReached / rules_.sustained.bf16),
            task.core ? Origin::kIdeal : Origin::kRuled};
  }
  const AttentionShape& shape = *task.core;
  Answer a =
      remembered(mutex_, cores_, shape, [&] { return from_table(*tables_.attention, shape); });
  if (pass != Pass::kForward) {
    // The factor of the width nearest to it.
    double factor = 1;
    int64_t nearest = -1;
    for (const auto& [width, f] : rules_.attention_backward) {
      if (nearest >= 0 && std::abs(width - shape.qk) >= std::abs(nearest - shape.qk)) continue;
      nearest = width;
      factor = f;
    }
    a = {a.time.scaled(factor), Origin::kRuled};
  }
  a.time = a.time.scaled(1 / static_cast<double>(task.parts) / rules_.sustained.attention);
  return a;
}

DeviceModel::Answer DeviceModel::streamed(OpKind op, Pass pass, const GpuTask& task) const {
  const DeviceRules::Shares* shares = &rules_.memory.at(task.kind);
  if (task.kind == WorkKind::kStream) {
    if (op == OpKind::kHead) shares = &rules_.loss;
    if (op == OpKind::kEmbed) shares = &rules_.embedding;
  }
  const double share = pass == Pass::kForward ? shares->forward : shares->backward;
  return {(task.bytes / facts_.peaks.memory).scaled(1 / share), Origin::kRuled};
}

std::shared_ptr<const DeviceModel> scaled(const DeviceModel& device, WorkKind kind, double factor) {
  if (kind == WorkKind::kWaiting) {
    throw InputError(
        "waiting: of a device from tables it follows from what the ranks do, and has no time of "
        "its own");
  }
  DeviceRules rules = device.rules();
  if (kind == WorkKind::kGap) {
    rules.gap = rules.gap.scaled(factor);
  } else {
    rules.scale[kind] = rules.scaled(kind) * factor;
  }
  return std::make_shared<const DeviceModel>(
      device.facts(), device.source(), device.tables(), std::move(rules));
}

void use_copy_rate(Plan& plan, const DeviceModel& device) {
  const auto& exchanges = device.tables().exchanges;
  if (!exchanges || !plan.cluster.copy_per_sm) return;
  const double rate = exchanges->per_sm().value();
  if (rate > 0) plan.cluster.copy_per_sm = BytesPerSecond(2 * rate);
}

std::shared_ptr<const DeviceModel> load_device(const std::string& path) {
  return parse_device(read_file(path, kMostYamlBytes), path);
}

std::shared_ptr<const DeviceModel> parse_device(std::string text, const std::string& path) {
  YamlMap top = YamlFile::parse(std::move(text), path).root();
  const std::string format = top.text("format");
  if (format != kDeviceFormat) {
    top.fail("format", fmt::format("expected '{}', found '{}'", kDeviceFormat, format));
  }
  DeviceFacts facts{.name = top.text("device")};
  std::string source = top.text("source", "");
  facts.sms = top.integer("sms", {.min = 1, .max = 10'000});
  facts.peaks.bf16 = top.flop_rate("peak_bf16");
  facts.fp8 = top.has("peak_fp8");
  facts.peaks.fp8 = facts.fp8 ? top.flop_rate("peak_fp8") : facts.peaks.bf16;
  facts.peaks.memory = top.rate("memory_bandwidth");
  const BytesPerSecond link = top.rate("node_link");
  if (link.value() <= 0) top.fail("node_link", "expected a rate above 0");
  facts.node_link = link;
  if (facts.peaks.bf16.value() <= 0) top.fail("peak_bf16", "expected a rate above 0");
  if (facts.peaks.memory.value() <= 0) top.fail("memory_bandwidth", "expected a rate above 0");
  YamlMap tables = top.map("tables");
  DeviceModel::Tables t;
  const auto products = [&](const char* key,
                            std::optional<ProductTable>& into,
                            DeviceModel::Tables::Source& source_of) {
    if (const auto c = read_chosen(tables, key, path, true)) {
      source_of = {c->path, c->kernel};
      into.emplace(take(parse_product_table(c->text, c->path, facts), *c),
                   format_of_table(c->kernel),
                   facts.peaks,
                   facts.sms);
    }
  };
  products("products_bf16", t.bf16, t.of_bf16);
  products("products_fp8", t.fp8, t.of_fp8);
  if (const auto c = read_chosen(tables, "attention", path, true)) {
    t.of_attention = {c->path, c->kernel};
    t.attention.emplace(
        take(parse_attention_table(c->text, c->path, facts), *c), facts.peaks, facts.sms);
  }
  if (const auto c = read_chosen(tables, "grouped", path, false)) {
    t.grouped.emplace(parse_grouped_table(c->text, c->path, facts), facts.peaks);
  }
  if (const auto c = read_chosen(tables, "collectives", path, false)) {
    t.collectives.emplace(parse_collective_table(c->text, c->path, link), link);
  }
  if (const auto c = read_chosen(tables, "exchanges", path, false)) {
    t.exchanges.emplace(parse_exchange_table(c->text, c->path, facts));
  }
  tables.finish();
  DeviceRules rules = read_rules(top.map("rules"));
  top.finish();
  return std::make_shared<const DeviceModel>(
      std::move(facts), std::move(source), std::move(t), std::move(rules));
}

bool is_device(std::string_view text) {
  return format_line(text).find(kDeviceFormat) != std::string_view::npos;
}

std::optional<std::string> shipped_device(const Cluster& c) {
  if (!c.of_gpus()) return std::nullopt;
  struct Shipped {
    const char* file;
    double peak, memory;
    int64_t sms;
  };
  constexpr auto kShipped = std::to_array<Shipped>({{"a100.yaml", 312e12, 2.039e12, 108},
                                                    {"h100.yaml", 989.5e12, 3.35e12, 132},
                                                    {"h200.yaml", 989.5e12, 4.8e12, 132}});
  constexpr double kSame = 0.01;
  for (const Shipped& s : kShipped) {
    const bool same = std::abs(c.peak.value() / s.peak - 1) < kSame &&
                      std::abs(c.memory_bandwidth.value() / s.memory - 1) < kSame && c.sms == s.sms;
    if (!same) continue;
    const std::filesystem::path path =
        std::filesystem::path(share_folder()) / "topologies" / "devices" / s.file;
    if (std::filesystem::is_regular_file(path)) return path.lexically_normal().string();
  }
  return std::nullopt;
}

}  // namespace rehearse
