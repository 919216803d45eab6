#include "sim/import/profile.h"

#include <algorithm>
#include <array>
#include <map>

#include <fmt/format.h>

#include "base/statistics.h"
#include "base/text.h"
#include "base/yaml.h"
#include "plan/program/op_work.h"
#include "sim/expert_load.h"
#include "sim/price/gpu_costs.h"

namespace rehearse {
namespace {

OpName read_op(YamlMap& map) {
  const auto op = op_named(map.text("op"));
  if (!op || (!is_cell_compute(op->first) && !is_all_to_all(op->first))) {
    map.fail(
        "op",
        "expected an op with its pass: attn, mlp, dispatch, combine, embed, head or mtp with .F, "
        ".B or .W");
  }
  return *op;
}

// Of a kernel's grid; 0 for what has none, or no possible one.
int64_t blocks(const DeviceEvent& e) {
  double product = 1;
  for (const int32_t n : e.grid) product *= std::max(1, n);
  return e.grid[0] == 0 || product > 1e12 ? 0 : static_cast<int64_t>(product);
}

// Whose a moment is when kernels of several kinds run at once: the first of these. Products and
// attention are what the others hide behind, data what waiting hides behind.
constexpr std::array kPriority = {WorkKind::kProduct,
                                  WorkKind::kAttention,
                                  WorkKind::kCast,
                                  WorkKind::kNorm,
                                  WorkKind::kRope,
                                  WorkKind::kActivation,
                                  WorkKind::kPermute,
                                  WorkKind::kGate,
                                  WorkKind::kElementwise,
                                  WorkKind::kStream,
                                  WorkKind::kData,
                                  WorkKind::kWaiting};
unsigned bit_of(WorkKind kind) {
  const auto at = std::find(kPriority.begin(), kPriority.end(), kind);
  CHECK(at != kPriority.end()) << name_of(kind) << " has no priority";
  return 1U << static_cast<unsigned>(at - kPriority.begin());
}

class Sweep {
 public:
  explicit Sweep(const ProfiledOp& op) {
    for (const ProfiledOp::Kernel& k : op.kernels) {
      edges_.emplace(k.begin, 0);
      edges_.emplace(k.end, 0);
    }
    for (const ProfiledOp::Kernel& k : op.kernels) {
      for (auto at = edges_.find(k.begin); at->first < k.end; ++at) at->second |= bit_of(k.kind);
    }
  }
  // Time that belongs to `kind`; kGap: in which nothing runs.
  Duration of(WorkKind kind) const {
    Duration sum;
    for (auto at = edges_.begin(); at != edges_.end(); ++at) {
      const auto next = std::next(at);
      if (next == edges_.end()) break;
      const unsigned running = at->second;
      const unsigned first = running & (~running + 1);  // the lowest bit
      const bool mine = kind == WorkKind::kGap ? running == 0 : first == bit_of(kind);
      if (mine) sum += next->first - at->first;
    }
    return sum;
  }

 private:
  std::map<Duration, unsigned> edges_;  // kinds that run from there on
};

}  // namespace

bool fits(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

ProfileMap load_profile_map(const std::string& path) {
  YamlMap top = YamlFile::load(path).root();
  ProfileMap map;
  for (YamlMap& rule : top.maps("ops")) {
    ProfileMap::OpRule r;
    r.annotation = rule.text("annotation", "");
    r.kernel = rule.text("kernel", "");
    if (r.annotation.empty() == r.kernel.empty()) {
      rule.fail("annotation", "expected one of the keys 'annotation' and 'kernel'");
    }
    r.op = read_op(rule);
    rule.finish();
    map.ops.push_back(std::move(r));
  }
  for (YamlMap& rule : top.maps("kernels")) {
    ProfileMap::KernelRule r;
    r.name = rule.text("name");
    const std::string kind = rule.text("work");
    if (!work_kind_named(kind) || *work_kind_named(kind) == WorkKind::kGap) {
      rule.fail("work",
                fmt::format("unknown kind of work '{}'; known: product, attention, cast, norm, "
                            "rope, activation, permute, gate, elementwise, stream, data, waiting",
                            kind));
    }
    r.kind = *work_kind_named(kind);
    rule.finish();
    map.kernels.push_back(std::move(r));
  }
  if (top.has("rows")) {
    for (YamlMap& rule : top.maps("rows")) {
      ProfileMap::RowsRule r;
      r.op = read_op(rule);
      r.kernel = rule.text("kernel");
      r.tokens = rule.has("tokens");
      r.axis = rule.choice<int>(r.tokens ? "tokens" : "rows", {{"x", 0}, {"y", 1}, {"z", 2}});
      r.times = rule.integer("times", {.min = 1, .max = 1'000'000}, 1);
      rule.finish();
      map.rows.push_back(std::move(r));
    }
  }
  top.finish();
  return map;
}

bool names_annotation(const ProfileMap& map, std::string_view annotation) {
  return std::any_of(map.ops.begin(), map.ops.end(), [&](const auto& r) {
    return !r.annotation.empty() && fits(r.annotation, annotation);
  });
}

Duration ProfiledOp::of(WorkKind kind) const {
  return Sweep(*this).of(kind);
}

std::vector<ProfiledOp> profile_ops(const Trace& trace,
                                    const ProfileMap& map,
                                    const std::string& path) {
  // By name, once per distinct name.
  std::vector<std::optional<WorkKind>> kinds;
  std::vector<const ProfileMap::OpRule*> by_name;
  for (const std::string& name : trace.names) {
    const auto kind = std::find_if(
        map.kernels.begin(), map.kernels.end(), [&](const auto& r) { return fits(r.name, name); });
    kinds.push_back(kind == map.kernels.end() ? std::nullopt : std::optional(kind->kind));
    const auto rule = std::find_if(map.ops.begin(), map.ops.end(), [&](const auto& r) {
      return !r.kernel.empty() && fits(r.kernel, name);
    });
    by_name.push_back(rule == map.ops.end() ? nullptr : &*rule);
  }
  std::vector<const ProfileMap::OpRule*> by_annotation;
  for (const Annotation& a : trace.annotations) {
    const auto rule = std::find_if(map.ops.begin(), map.ops.end(), [&](const auto& r) {
      return !r.annotation.empty() && fits(r.annotation, a.name);
    });
    by_annotation.push_back(rule == map.ops.end() ? nullptr : &*rule);
  }
  // An op's run: the kernels of one annotation, or neighbours on a stream that fit one rule.
  std::map<int32_t, size_t> of_annotation;
  std::map<std::pair<int32_t, const ProfileMap::OpRule*>, size_t> open;
  std::map<int32_t, const ProfileMap::OpRule*> last_of_stream;
  std::vector<ProfiledOp> ops;
  const auto add = [&](ProfiledOp& op, const DeviceEvent& e) {
    const auto kind = kinds[static_cast<size_t>(e.name)];
    if (!kind) {
      throw InputError(fmt::format("{}: kernel '{}' of {} fits no rule of the map's 'kernels'",
                                   path,
                                   whole_characters(trace.names[static_cast<size_t>(e.name)], 120),
                                   to_string(op.op)));
    }
    op.kernels.push_back({*kind, blocks(e), e.stream, e.begin, e.end});
    op.begin = op.kernels.size() == 1 ? e.begin : std::min(op.begin, e.begin);
    op.end = op.kernels.size() == 1 ? e.end : std::max(op.end, e.end);
    for (const ProfileMap::RowsRule& r : map.rows) {
      if (r.op != op.op || !fits(r.kernel, trace.names[static_cast<size_t>(e.name)])) continue;
      int64_t& count = r.tokens ? op.arrived : op.rows;
      count = std::max(count, int64_t{e.grid[r.axis]} * r.times);
    }
  };
  for (const DeviceEvent& e : trace.events) {
    const ProfileMap::OpRule* rule =
        e.annotation ? by_annotation[static_cast<size_t>(*e.annotation)] : nullptr;
    if (rule != nullptr) {
      const auto [at, fresh] = of_annotation.emplace(*e.annotation, ops.size());
      if (fresh) ops.push_back({.op = rule->op});
      add(ops[at->second], e);
      continue;
    }
    rule = by_name[static_cast<size_t>(e.name)];
    const auto* const last = last_of_stream[e.stream];
    last_of_stream[e.stream] = rule;
    if (rule == nullptr) continue;
    const std::pair key{e.stream, rule};
    if (rule != last) {
      open[key] = ops.size();
      ops.push_back({.op = rule->op});
    }
    add(ops[open[key]], e);
  }
  if (ops.empty()) {
    throw InputError(fmt::format(
        "{}: none of its {} device events belongs to an op by the map: it has {} annotations{}, {} "
        "of its device events have no launch in the trace",
        path,
        trace.events.size(),
        static_cast<int64_t>(trace.annotations.size()) + trace.passed_over,
        !trace.annotations.empty()
            ? fmt::format(" (such as '{}')", whole_characters(trace.annotations.back().name, 60))
        : trace.passed_over > 0 ? fmt::format(" (such as '{}')", trace.passed_over_name)
                                : std::string(),
        trace.orphans));
  }
  std::stable_sort(
      ops.begin(), ops.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  return ops;
}

MemberLoad expected_load(const Plan& plan) {
  Plan random = plan;
  random.expert_load = {.synthetic = true, .skew = 0, .varies = LoadVaries::kNever};
  ExpertLoad loads(random);
  const GroupLoad& load = loads.of(0, 0, 0);
  const auto members = static_cast<int64_t>(load.members.size());
  MemberLoad mean = load.members.front();
  std::fill(mean.expert_rows.begin(),
            mean.expert_rows.end(),
            plan.micro_batch_tokens() * plan.model.architecture.active_experts * members /
                std::max<int64_t>(1, plan.model.architecture.experts));
  if (!mean.exchange) return mean;
  ExchangeTokens sum;
  for (const MemberLoad& m : load.members) {
    sum.sent += m.exchange->sent;
    sum.received += m.exchange->received;
    sum.forwarded += m.exchange->forwarded;
    sum.arrived += m.exchange->arrived;
  }
  mean.exchange = {
      sum.sent / members, sum.received / members, sum.forwarded / members, sum.arrived / members};
  return mean;
}

void set_demands(GpuCalibration& calibration, const Plan& plan) {
  const GpuCosts costs(calibration, plan.cluster);
  const OpWork work(plan);
  const MemberLoad load = expected_load(plan);
  for (GpuEntry& e : calibration.entries) {
    if (e.kind == WorkKind::kData && e.op) {
      e.demand = std::min(1.0, costs.demand(tasks_beside(work, *e.op, load)));
    }
  }
}

MemberLoad with_rows(MemberLoad load, const ProfiledOp& op) {
  const auto experts = static_cast<int64_t>(load.expert_rows.size());
  for (int64_t i = 0; op.rows > 0 && i < experts; ++i) {
    load.expert_rows[static_cast<size_t>(i)] = op.rows / experts + (i < op.rows % experts ? 1 : 0);
  }
  if (op.arrived > 0 && load.exchange) load.exchange->arrived = op.arrived;
  return load;
}

Bytes copies(const Plan& plan, OpName exchange, const MemberLoad& load) {
  if (!load.exchange) return Bytes();
  const ExpertGroup group(plan, 0, 0);
  const ExchangeTokens& x = *load.exchange;
  return exchange_message(plan, exchange.first, exchange.second) *
         ((group.nodes > 1 ? x.sent : 0) + x.forwarded + x.arrived);
}

namespace {

// Entries of one op, from its repetitions.
class Importer {
 public:
  Importer(const Plan& plan, const MemberLoad& load, OpName op, std::vector<const ProfiledOp*> runs)
      : plan_(plan), work_(plan), load_(load), op_(op), runs_(std::move(runs)) {}

  std::vector<GpuEntry> entries() {
    if (is_all_to_all(op_.first)) {
      exchange();
      return std::move(entries_);
    }
    std::vector<std::vector<GpuTask>> tasks;
    for (const ProfiledOp* run : runs_) {
      tasks.push_back(work_.layer_tasks(op_, with_rows(load_, *run)));
    }
    products(tasks);
    for (const WorkKind k : work_kinds()) {
      if (is_task(k) && k != WorkKind::kProduct) of_kind(k, tasks);
    }
    times(WorkKind::kGap);
    return std::move(entries_);
  }

 private:
  GpuEntry entry(WorkKind kind) const { return {.op = op_, .kind = kind, .beside = true}; }

  void times(WorkKind kind) {
    GpuEntry e = entry(kind);
    Duration sum;
    for (const ProfiledOp* run : runs_) {
      e.samples.push_back({run->of(kind), Flops(), Bytes()});
      sum += e.samples.back().time;
    }
    if (sum > Duration()) entries_.push_back(std::move(e));
  }

  void of_kind(WorkKind kind, const std::vector<std::vector<GpuTask>>& tasks) {
    GpuEntry e = entry(kind);
    bool some = false;
    for (size_t i = 0; i < runs_.size(); ++i) {
      GpuEntry::Sample s{runs_[i]->of(kind), Flops(), Bytes()};
      for (const GpuTask& t : tasks[i]) {
        if (t.kind != kind) continue;
        s.flops += t.flops;
        s.bytes += t.bytes;
      }
      some |= s.time > Duration();
      e.samples.push_back(s);
    }
    if (!some) return;
    for (const GpuEntry::Sample& s : e.samples) {
      if (s.bytes == Bytes()) {
        throw InputError(fmt::format(
            "{}: {} has kernels of kind '{}' in the trace, but none by the plan (precision {})",
            plan_.path,
            to_string(op_),
            name_of(kind),
            name_of(plan_.training.precision)));
      }
      if (s.time == Duration()) {
        throw InputError(
            fmt::format("{}: a run of {} has no kernel of kind '{}' in the trace, another one has",
                        plan_.path,
                        to_string(op_),
                        name_of(kind)));
      }
    }
    entries_.push_back(std::move(e));
  }

  // A product faster than the device can multiply is of other sizes than the plan's.
  void require_possible(const GpuEntry& e) const {
    const Cluster& c = plan_.cluster;
    const FlopsPerSecond peak = e.format == Format::kFp8 ? c.peak_fp8.value_or(c.peak) : c.peak;
    for (const GpuEntry::Sample& s : e.samples) {
      const FlopsPerSecond rate(s.flops.count() / s.time.seconds());
      if (rate.value() <= peak.value()) continue;
      throw InputError(
          fmt::format("{}: a product of {} would reach {} by the plan's sizes, above the peak of "
                      "'{}', {}: the plan "
                      "is not what was profiled",
                      plan_.path,
                      to_string(op_),
                      to_string(rate),
                      c.name,
                      to_string(peak)));
    }
  }

  void products(const std::vector<std::vector<GpuTask>>& tasks) {
    // One kernel after another as the plan has them, or all together.
    bool one_by_one = true;
    std::vector<std::vector<GpuTask>> wanted(runs_.size());
    std::vector<std::vector<const ProfiledOp::Kernel*>> found(runs_.size());
    for (size_t i = 0; i < runs_.size(); ++i) {
      for (const GpuTask& t : tasks[i]) {
        if (t.kind == WorkKind::kProduct) wanted[i].push_back(t);
      }
      for (const ProfiledOp::Kernel& k : runs_[i]->kernels) {
        if (k.kind == WorkKind::kProduct) found[i].push_back(&k);
      }
      one_by_one &= wanted[i].size() == found[i].size();
      for (size_t j = 1; j < found[i].size(); ++j) {
        one_by_one &= found[i][j]->begin >= found[i][j - 1]->end;
      }
      if (wanted[i].empty() != found[i].empty()) {
        throw InputError(
            fmt::format("{}: {} has {} matrix products by the plan and {} in the trace",
                        plan_.path,
                        to_string(op_),
                        wanted[i].size(),
                        found[i].size()));
      }
    }
    if (found[0].empty()) return;
    if (!one_by_one) {
      GpuEntry e = entry(WorkKind::kProduct);
      e.family = wanted[0].back().family;
      e.format = wanted[0].back().format;
      for (size_t i = 0; i < runs_.size(); ++i) {
        GpuEntry::Sample s{runs_[i]->of(WorkKind::kProduct), Flops(), Bytes()};
        for (const GpuTask& t : wanted[i]) {
          s.flops += t.flops;
          s.bytes += t.bytes;
        }
        e.samples.push_back(s);
      }
      require_possible(e);
      entries_.push_back(std::move(e));
      return;
    }
    for (size_t j = 0; j < wanted[0].size(); ++j) {
      GpuEntry e = entry(WorkKind::kProduct);
      std::vector<double> rows;
      for (size_t i = 0; i < runs_.size(); ++i) {
        const GpuTask& t = wanted[i][j];
        e.samples.push_back({found[i][j]->end - found[i][j]->begin, t.flops, t.bytes});
        rows.push_back(static_cast<double>(t.m));
        e.family = t.family;
        e.format = t.format;
        e.groups = t.groups;
        e.n = t.n;
        e.k = t.k;
        e.sms = found[i][j]->blocks;
      }
      e.m = static_cast<int64_t>(median(rows));
      require_possible(e);
      entries_.push_back(std::move(e));
    }
  }

  void exchange() {
    if (!load_.exchange) {
      throw InputError(fmt::format("{}: layout.ep: the trace has {}, which moves nothing at ep 1",
                                   plan_.path,
                                   to_string(op_)));
    }
    // Casts and layouts come before the data.
    const std::vector<std::vector<GpuTask>> tasks(runs_.size(), work_.layer_tasks(op_, load_));
    for (const WorkKind k : work_kinds()) {
      if (is_task(k)) of_kind(k, tasks);
    }
    times(WorkKind::kWaiting);
    GpuEntry e = entry(WorkKind::kData);
    const Bytes copied = copies(plan_, op_, load_);
    for (const ProfiledOp* run : runs_) {
      e.samples.push_back({run->of(WorkKind::kData), Flops(), copied});
      for (const ProfiledOp::Kernel& k : run->kernels) {
        if (k.kind == WorkKind::kData) e.sms = k.blocks;
      }
      if (e.samples.back().time == Duration()) {
        throw InputError(fmt::format(
            "{}: a run of {} has no kernel of kind 'data'", plan_.path, to_string(op_)));
      }
    }
    entries_.push_back(std::move(e));
  }

  const Plan& plan_;
  OpWork work_;
  const MemberLoad& load_;
  OpName op_;
  std::vector<const ProfiledOp*> runs_;
  std::vector<GpuEntry> entries_;
};

}  // namespace

GpuCalibration import_profile(const std::vector<ProfiledOp>& ops,
                              const Trace& trace,
                              const Plan& plan,
                              const std::string& source,
                              const ImportOptions& options) {
  const Cluster& cluster = plan.cluster;
  if (!cluster.of_gpus() || !cluster.peak_fp8 || !cluster.copy_per_sm) {
    throw InputError(plan.path +
                     ": a profile is imported under a plan whose cluster is of GPUs and states "
                     "peak_fp8 and copy_per_sm");
  }
  if (!bytes_of(plan.training.precision).linears) {
    throw InputError(plan.path + ": training.precision: a profile is imported as of fp8 or bf16");
  }
  const auto differ = [&](std::string_view what, int64_t there, int64_t here) {
    if (there == 0 || there == here) return;
    throw InputError(fmt::format(
        "{}: was recorded with {} {}, plan '{}' has {}", source, there, what, plan.path, here));
  };
  differ("SMs per device", trace.sms, cluster.sms);
  differ("ranks", trace.world, plan.layout.world());
  const MemberLoad load = expected_load(plan);
  std::map<OpName, std::vector<const ProfiledOp*>> runs;
  for (const ProfiledOp& op : ops) runs[op.op].push_back(&op);
  const size_t repetitions = runs.begin()->second.size();
  GpuCalibration c{.device = trace.device.empty() ? cluster.name : trace.device,
                   .sms = cluster.sms,
                   .communication_sms = cluster.communication_sms,
                   .peaks = {cluster.peak, *cluster.peak_fp8, cluster.memory_bandwidth},
                   .copy = BytesPerSecond(cluster.copy_per_sm->value() *
                                          static_cast<double>(cluster.communication_sms)),
                   .source = source};
  for (auto& [op, of_op] : runs) {
    if (of_op.size() != repetitions) {
      throw InputError(fmt::format("{}: {} ran {} times, {} {} times",
                                   source,
                                   to_string(runs.begin()->first),
                                   repetitions,
                                   to_string(op),
                                   of_op.size()));
    }
    if (!options.only.empty() && !options.only.contains(op)) continue;
    if (options.leave_out) {
      if (*options.leave_out >= of_op.size() || of_op.size() < 2) {
        throw InputError(fmt::format("{}: has {} repetitions; {} cannot be left out",
                                     source,
                                     of_op.size(),
                                     *options.leave_out));
      }
      of_op.erase(of_op.begin() + static_cast<ptrdiff_t>(*options.leave_out));
    }
    const std::vector<GpuEntry> entries = Importer(plan, load, op, of_op).entries();
    c.entries.insert(c.entries.end(), entries.begin(), entries.end());
  }
  if (c.entries.empty()) {
    throw InputError(source + ": has none of the ops that were asked for");
  }
  return c;
}

}  // namespace rehearse
