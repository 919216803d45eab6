#include "sim/import/judge.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "sim/exchange_speed.h"
#include "sim/price/gpu_costs.h"
#include "sim/simulate.h"

namespace rehearse {
namespace {

Calibration of_gpus(const GpuCalibration& calibration) {
  return {.gpu = std::make_shared<const GpuCalibration>(calibration)};
}

// Every op must have run equally often, and be one that the plan has.
void check_runs(const Profile& profile, const Plan& plan, bool has_exchange) {
  std::map<OpName, size_t> runs;
  for (const ProfiledOp& op : profile.ops) ++runs[op.op];
  for (const auto& [op, n] : runs) {
    if (n != runs.begin()->second) {
      throw InputError(fmt::format("the trace has {} {} times and {} {} times: it was cut off",
                                   to_string(runs.begin()->first),
                                   runs.begin()->second,
                                   to_string(op),
                                   n));
    }
    if (is_all_to_all(op.first) && !has_exchange) {
      throw InputError(fmt::format("{}: layout.ep: the trace has {}, which moves nothing at ep 1",
                                   plan.path,
                                   to_string(op)));
    }
  }
}

}  // namespace

Duration Profile::length() const {
  Duration end;
  for (const ProfiledOp& op : ops) end = std::max(end, op.end);
  return end - ops.front().begin;
}

size_t Profile::repetitions() const {
  return static_cast<size_t>(std::count_if(
      ops.begin(), ops.end(), [&](const ProfiledOp& o) { return o.op == ops.front().op; }));
}

std::set<size_t> Profile::all_repetitions() const {
  std::set<size_t> all;
  for (size_t i = 0; i < repetitions(); ++i) all.insert(i);
  return all;
}

double Profile::share_of(WorkKind kind) const {
  Duration sum;
  for (const ProfiledOp& op : ops) sum += op.of(kind);
  return sum / length();
}

std::vector<JudgedOp> judge_ops(const Profile& profile,
                                const Plan& plan,
                                const GpuCalibration& calibration,
                                const std::set<size_t>& judged) {
  require_computable(plan);
  const GpuCosts costs(calibration, plan.cluster);
  const OpWork work(plan);
  const MemberLoad load = expected_load(plan);
  check_runs(profile, plan, load.exchange.has_value());
  std::map<OpName, JudgedOp> sums;
  std::map<OpName, size_t> seen;
  for (const ProfiledOp& op : profile.ops) {
    const size_t repetition = seen[op.op]++;
    if (!judged.contains(repetition)) continue;
    JudgedOp& j = sums[op.op];
    j.op = op.op;
    const Duration waiting = op.of(WorkKind::kWaiting);
    j.waiting += waiting;
    j.measured += op.end - op.begin - waiting;
    if (is_all_to_all(op.op.first)) continue;
    const std::vector<GpuTask> tasks = work.layer_tasks(op.op, with_rows(load, op));
    j.predicted += costs.time(op.op.first, op.op.second, tasks).beside;
  }
  const double share = 1 / static_cast<double>(judged.size());
  for (auto& [op, j] : sums) {
    j.waiting = j.waiting.scaled(share);
    j.measured = j.measured.scaled(share);
    j.predicted = j.predicted.scaled(share);
  }
  // All-to-alls with their links to themselves, beside the pair's computation, no expert preferred.
  Plan random = plan;
  random.expert_load = {.synthetic = true, .skew = 0, .varies = LoadVaries::kNever};
  for (const ExchangeSpeed& s :
       exchange_speeds(random, build_program(plan, Mode::kPair), of_gpus(calibration))) {
    const auto at = sums.find({s.kind, s.pass});
    if (at != sums.end()) at->second.predicted = s.mean;
  }
  std::vector<JudgedOp> out;
  for (const auto& [name, j] : sums) out.push_back(j);
  return out;
}

JudgedPair judge_pair(const Plan& plan, const GpuCalibration& calibration) {
  const Program program = build_program(plan, Mode::kPair);
  const Prediction p = simulate(plan, program, of_gpus(calibration));
  JudgedPair r{.step = p.summary.step,
               .waiting_share = p.summary.exchange_wait_fraction,
               .exposed = p.summary.exposed_comm_fraction};
  const GpuCosts costs(calibration, plan.cluster);
  const OpWork work(plan);
  const MemberLoad load = expected_load(plan);
  Duration data;
  for (OpId id = 0; id < program.global_size(); ++id) {
    const Op& op = program.op(id);
    if (!is_all_to_all(op.kind)) continue;
    const Span& span = p.timeline.spans[static_cast<size_t>(id)];
    const std::vector<GpuTask> before = work.layer_tasks({op.kind, op.pass}, load);
    data += span.end - span.begin - costs.time(op.kind, op.pass, before).beside;
  }
  r.data_share = data / r.step / static_cast<double>(plan.layout.world()) - r.waiting_share;
  return r;
}

void complete(GpuCalibration& calibration,
              const Plan& plan,
              const std::optional<GpuCalibration>& published) {
  if (published) {
    calibration.entries.insert(
        calibration.entries.end(), published->entries.begin(), published->entries.end());
  }
  set_demands(calibration, plan);
}

std::vector<LeftOut> leave_each_out(const Profile& profile,
                                    const Plan& plan,
                                    const std::optional<GpuCalibration>& published) {
  std::vector<LeftOut> all;
  for (size_t i = 0; i < profile.repetitions(); ++i) {
    GpuCalibration c =
        import_profile(profile.ops, profile.trace, plan, profile.path, {.leave_out = i});
    complete(c, plan, published);
    all.push_back({.repetition = i,
                   .pair = judge_pair(plan, c),
                   .whole = judge_ops(profile, plan, c, profile.all_repetitions()),
                   .left_out = judge_ops(profile, plan, c, {i})});
  }
  return all;
}

}  // namespace rehearse
