#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>

#include "cli/reports.h"

namespace rehearse::cli {
namespace {

// Of this process so far.
Bytes peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return Bytes(int64_t{1024} * usage.ru_maxrss);
}

// Of devices from tables: which share of the computation's time is measured, and what of the rest
// is most.
void put_origins(Report& report, Report& costs, const CostSources& s, double all) {
  const auto percent = [&](double seconds) { return fmt::format("{:.1f}%", 100 * seconds / all); };
  std::string line;
  for (const auto& origin : kOrigins.entries()) {
    const double seconds = s.seconds[static_cast<size_t>(origin.value)];
    costs.put(fmt::format("{}_share", origin.name), seconds / all);
    line += fmt::format("{}{} {}", line.empty() ? "" : ", ", percent(seconds), origin.name);
  }
  std::vector<std::pair<double, std::string>> told;
  for (const auto& [name, seconds] : s.told) told.emplace_back(seconds, name);
  std::sort(told.rbegin(), told.rend());
  constexpr size_t kNamed = 3;
  std::vector<Value> names;
  std::string most;
  for (size_t i = 0; i < std::min(kNamed, told.size()); ++i) {
    names.emplace_back(told[i].second);
    most += fmt::format("{}{} ({})", i > 0 ? ", " : "", told[i].second, percent(told[i].first));
  }
  costs.put("most_told", names);
  report.say(fmt::format("\ncomputation: {} of its time", line));
  report.say(most.empty() ? "\n" : fmt::format("; of what is not measured, most is {}\n", most));
}

void add_speeds(Report& report, const Plan& plan, const StepPrediction& step) {
  const Speeds s = speeds_of(plan, step);
  report.say("\nspeed\n");
  report.line("tflops_per_gpu_causal", "TFLOP/s per GPU", s.tflops_causal);
  report.line("tflops_per_gpu_noncausal", "  attention in full", s.tflops_noncausal);
  report.line("mfu_causal", "MFU, of the BF16 peak", s.mfu_causal);
  report.line("mfu_noncausal", "  attention in full", s.mfu_noncausal);
  report.line("tokens_per_day", "tokens per day", s.tokens_per_day);
}

void add_phases(Report& report, const BudgetResult& b) {
  Report::Table table{.columns = {{"", "phase"},
                                  {"", "tokens"},
                                  {"", "sequences per step"},
                                  {"", "step"},
                                  {"", "GPU-hours"},
                                  {"", "days"},
                                  {"", "memory"}}};
  for (const PhaseResult& r : b.phases) {
    std::vector<std::string> steps;
    std::vector<Value> sequences, seconds;
    for (const Duration t : r.steps) {
      steps.push_back(fmt::format("{:.2f} s", t.seconds()));
      seconds.emplace_back(t);
    }
    for (const int64_t n : r.sequences) sequences.emplace_back(n);
    table.row({r.name,
               fmt::format("{:.4g}B", r.tokens * 1e-9),
               fmt::format("{}", fmt::join(r.sequences, ", ")),
               fmt::format("{}", fmt::join(steps, ", ")),
               fmt::format("{:.0f}", r.gpu_hours.value),
               fmt::format("{:.2f}", r.days.value),
               r.fits ? "fits" : "TOO LITTLE"});
    Report& phase = report.item("phases");
    phase.put("name", r.name);
    phase.put("tokens", r.tokens);
    phase.put("sequences_per_step", std::move(sequences));
    phase.put("step_time_s", std::move(seconds));
    phase.put("fits_memory", r.fits);
    phase.put("gpu_hours", r.gpu_hours.value);
    phase.put("gpu_hours_interval", {r.gpu_hours.low, r.gpu_hours.high});
    phase.put("days", r.days.value);
    phase.put("days_interval", {r.days.low, r.days.high});
  }
  report.say("\n");
  report.table("", std::move(table));
  report.say("\n");
}

void add_budget(Report& report, const BudgetResult& b) {
  report.say("\nwhole training\n");
  if (b.gpu_hours_pretrain) {
    report.line("gpu_hours_pretrain", "GPU-hours, steady step", *b.gpu_hours_pretrain);
    report.put("gpu_hours", b.gpu_hours_pretrain->value);
  }
  if (!b.phases.empty()) {
    add_phases(report, b);
  } else {
    report.put("phases", std::vector<Value>{});
  }
  report.line("gpu_hours_total", "GPU-hours, all", b.gpu_hours_total);
  report.line("days", "days", b.days);
  if (b.cost_usd) report.line("cost_usd", "cost, USD", *b.cost_usd);
  if (b.energy_mwh) report.line("energy_mwh", "energy, MWh", *b.energy_mwh);
}

// The parts of a breakdown, as columns.
const std::vector<Report::Table::Column> kBreakdown = {{"", "pipeline rank"},
                                                       {"f", "F"},
                                                       {"b", "B"},
                                                       {"w", "W"},
                                                       {"fb", "F&B"},
                                                       {"bubble", "bubble"},
                                                       {"optimizer", "optimizer"},
                                                       {"exposed_comm", "exposed comm"},
                                                       {"exchange_wait", ""}};
std::vector<Value> parts_of(const std::string& name, const Breakdown& b) {
  return {name, b.f, b.b, b.w, b.fb, b.bubble, b.optimizer, b.exposed_comm, b.exchange_wait};
}

constexpr size_t kShownRanks = 16;

}  // namespace

void put_sources(Report& report, const Plan& plan, const CostSources& s) {
  Report& costs = report.section("costs");
  costs.put("calibrated_calls", s.measured);
  costs.put("interpolated_calls", s.interpolated);
  costs.put("roofline_calls", s.roofline);
  costs.put("stated_calls", s.stated);
  costs.put("unmeasured", std::vector<Value>(s.unmeasured.begin(), s.unmeasured.end()));
  double all = 0;
  for (const double seconds : s.seconds) all += seconds;
  if (all > 0) put_origins(report, costs, s, all);
  if (s.roofline == 0) return;
  report.say(
      fmt::format("\n{} of {} costs are of work that no calibration has: they are flops over peak "
                  "and bytes over bandwidth, which is optimistic.\n",
                  s.roofline,
                  s.roofline + s.measured + s.interpolated));
  if (plan.cluster.on_cores()) {
    report.say(fmt::format("`rehearse calibrate {}` measures them.\n", plan.path));
  }
}

void put_breakdown(Report& object, const Breakdown& b) {
  const std::vector<Value> parts = parts_of("", b);
  for (size_t i = 1; i < parts.size(); ++i) object.put(kBreakdown[i].key, parts[i]);
}

void put_memory(Report& object, const RankMemory& m) {
  object.put("parameters", m.parameters);
  object.put("gradients", m.gradients);
  object.put("optimizer", m.optimizer);
  object.put("activations", m.activations);
  object.put("total", m.total());
  object.put("passing", m.passing);
  object.put("reserve", m.reserve);
}

Report::Table breakdown_table(const Program& program, const Summary& s) {
  Report::Table table{.columns = kBreakdown, .shown = kShownRanks};
  for (int32_t r = 0; r < program.layout().pp; ++r) {
    const auto rank = static_cast<size_t>(program.global_rank({r, 0}));
    table.row(parts_of(std::to_string(r), s.ranks[rank]));
  }
  table.below = {parts_of("mean of all ranks", mean(s.ranks))};
  return table;
}

Report::Table memory_table(const Plan& plan) {
  Report::Table table{.columns = {{"", "pipeline rank"},
                                  {"parameters", "parameters"},
                                  {"gradients", "gradients"},
                                  {"optimizer", "optimizer"},
                                  {"activations", "activations"},
                                  {"total", "total"},
                                  {"need", "needs"}}};
  for (int64_t r = 0; r < plan.layout.pp; ++r) {
    const RankMemory m = rank_memory(plan, r);
    table.row({std::to_string(r),
               m.parameters,
               m.gradients,
               m.optimizer,
               m.activations,
               m.total(),
               m.need()});
  }
  return table;
}

std::string memory_warning(const Plan& plan) {
  const Bytes need = device_need(plan);
  if (need <= plan.cluster.memory) return "";
  return fmt::format("\nWARNING: this does not fit: a {} needs {}, cluster '{}' has {}\n",
                     plan.cluster.of_gpus() ? "device" : "node",
                     to_string(need),
                     plan.cluster.name,
                     to_string(plan.cluster.memory));
}

Report prediction_report(const Plan& plan,
                         const Program& program,
                         const StepPrediction& p,
                         bool speeds,
                         const std::optional<BudgetResult>& budget) {
  const Layout& l = plan.layout;
  const double step = p.summary.step.seconds();
  const double tokens = tokens_of(plan, program);
  const double flops =
      training_flops_per_token(plan.model.architecture, plan.training.sequence_length, true)
          .count() *
      tokens;
  Report r;
  r.say(fmt::format("{} on {}: {}, {}, {} micro-batches of {} tokens\n\n",
                    plan.model.name,
                    plan.cluster.name,
                    ranks_text(l),
                    name_of(l.schedule),
                    plan.training.micro_batches,
                    plan.training.micro_batch_size * plan.training.sequence_length));
  std::string shown = to_string(p.summary.step);
  if (p.low < p.high) {
    shown += fmt::format("   (90%: {} to {})", to_string(p.low), to_string(p.high));
  }
  const std::optional<bool> calibrated = p.median.timeline.calibrated;
  if (!calibrated.value_or(true)) shown += "   (uncalibrated)";
  r.line("step_time_s", "step time", {shown, step});
  r.put("calibrated", calibrated ? Value(*calibrated) : Value());
  r.put("interval_s", {p.low, p.high});
  r.line(
      "tokens_per_s", "tokens per second", {fmt::format("{:.0f}", tokens / step), tokens / step});
  r.put("tflops_per_rank_causal", flops / step / static_cast<double>(l.world()) * 1e-12);
  r.line("bubble_fraction",
         "bubble",
         {fmt::format("{:.1f}% of the step, mean over ranks", 100 * p.summary.bubble_fraction),
          p.summary.bubble_fraction});
  r.line("exposed_comm_fraction", "exposed communication", share(p.summary.exposed_comm_fraction));
  if (l.tp > 1 || l.cp > 1 || l.etp > 1) {
    r.line("exposed_shared_fraction",
           "exposed gathers",
           {fmt::format("{:.1f}% (tensor and context parallelism)",
                        100 * p.summary.exposed_shared_fraction),
            p.summary.exposed_shared_fraction});
  }
  const double waiting = p.summary.exchange_wait_fraction;
  if (waiting > 0) {
    r.line("exchange_wait_fraction",
           "waiting in all-to-alls",
           {fmt::format("{:.1f}% for other ranks, hidden or not", 100 * waiting), waiting});
  } else {
    r.put("exchange_wait_fraction", waiting);
  }
  std::string simulated = fmt::format("{} ops in {}", program.global_size(), to_string(p.wall));
  if (p.median.ranks.slots() < l.stage_ranks()) {
    simulated += fmt::format(
        ", {} of {} data ranks standing for all", p.median.ranks.slots(), l.stage_ranks());
  }
  if (!p.median.not_folded.empty()) simulated += "; not folded further: " + p.median.not_folded;
  r.put("not_folded_because", p.median.not_folded.empty() ? Value() : Value(p.median.not_folded));
  r.line("ops", "simulated", {simulated, program.global_size()});
  r.put("simulated_ops", p.median.simulated_ops);
  r.put("simulated_data_ranks", static_cast<int64_t>(p.median.ranks.slots()));
  r.put("sim_wall_s", p.wall);
  r.put("sim_peak_memory_bytes", peak_memory());
  r.say("\n");
  r.table("breakdown_ranks_s", breakdown_table(program, p.summary));
  put_breakdown(r.section("breakdown_s"), p.summary.ranks.front());
  put_breakdown(r.section("breakdown_mean_s"), mean(p.summary.ranks));
  r.say("\nmemory per rank\n");
  r.table("memory_bytes", memory_table(plan));
  r.put("fits_memory", fits_memory(plan));
  r.say(memory_warning(plan));
  if (!calibrated.value_or(true)) r.say(fmt::format("\n{}\n", kUncalibrated));
  put_sources(r, plan, p.median.sources);
  if (plan.cluster.of_gpus()) {
    const ExchangeCounts& x = p.median.exchanges;
    Report& counts = r.section("all_to_alls");
    counts.put("alone", x.alone);
    counts.put("remembered", x.remembered);
    counts.put("disturbed", x.disturbed);
  }
  if (speeds) add_speeds(r, plan, p);
  if (budget) add_budget(r, *budget);
  return r;
}

}  // namespace rehearse::cli
