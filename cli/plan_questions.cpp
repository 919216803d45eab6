#include "cli/plan_questions.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "cli/plan_report.h"
#include "cli/reports.h"

namespace rehearse::cli {
namespace {

double in_gb(Bytes b) {
  return static_cast<double>(b.count()) * 1e-9;
}

}  // namespace

Report screen_error_report(const Plan& base, const ScreenError& e) {
  Report r;
  r.say(fmt::format("{} on {}: what the formulas told of random legal layouts that fit\n\n",
                    base.model.name,
                    base.cluster.name));
  r.line("layouts", "simulated", e.layouts);
  r.line("layouts_too_long", "given up, too many ranks", e.too_long);
  r.line("rank_correlation",
         "rank correlation",
         {fmt::format("{:.3f}", e.rank_correlation), e.rank_correlation});
  r.line("mean_absolute_error", "mean absolute error", share(e.mean_absolute));
  r.line("bias", "bias", signed_share(e.bias));
  r.line("tightest_bound",
         "largest bound over step",
         {fmt::format("{:.3f}", e.tightest_bound), e.tightest_bound});
  return r;
}

std::string memory_ways_text(const std::vector<MemoryWay>& ways) {
  std::string text;
  constexpr size_t kShown = 5;
  for (size_t i = 0; i < std::min(kShown, ways.size()); ++i) {
    const MemoryWay& w = ways[i];
    text += fmt::format("  {:<26} {:>6.1f} GB less, step {} by formulas\n",
                        w.what,
                        in_gb(w.saved),
                        percent(w.step_change));
  }
  return text;
}

void put_memory_ways(Report& r, const std::vector<MemoryWay>& ways) {
  if (ways.empty()) return;
  r.say("\nto need less memory, cheapest first\n" + memory_ways_text(ways));
  for (const MemoryWay& w : ways) {
    Report& of = r.item("memory_ways");
    of.put("what", w.what);
    of.put("saved_bytes", w.saved);
    of.put("need_bytes", w.need);
    of.put("step_change", w.step_change);
  }
}

void put_phases(Report& r, const Plan& base, const std::vector<PhaseAnswer>& answers) {
  if (answers.empty()) return;
  r.say("\nthe first layout in other phases\n");
  for (const PhaseAnswer& a : answers) {
    const auto told = [&](const Scored& s) {
      const PlanFigures f = figures_of(base, s.screened.candidate, s.step);
      return fmt::format("{:.2f} s, {:.0f} tokens/s per GPU, {:.0f} GB: {}",
                         s.step,
                         f.tokens_per_second_per_gpu,
                         in_gb(s.memory.need()),
                         kFits[s.fit]);
    };
    r.say(fmt::format("  {:<12} {} x {}: {}\n",
                      a.phase.name,
                      a.phase.batch,
                      a.phase.sequence,
                      !a.why_not.empty() ? "needs another layout: " + a.why_not
                      : a.same           ? told(*a.same)
                                         : "too many ranks to simulate"));
    if (a.other) {
      r.say(fmt::format("  {:<12} best there: {}, recompute {}: {}\n",
                        "",
                        to_string(a.other->screened.candidate),
                        recompute_text(a.other->screened.candidate.recompute),
                        told(*a.other)));
    } else if (!a.same || a.same->fit == Fit::kShort) {
      r.say(fmt::format("  {:<12} no legal layout of these GPUs fits there\n", ""));
    }
    Report& of = r.item("phases");
    of.put("name", a.phase.name);
    of.put("batch", a.phase.batch);
    of.put("sequence", a.phase.sequence);
    of.put("legal", a.why_not.empty());
    of.put("why_not", a.why_not.empty() ? Value() : Value(a.why_not));
    of.put("needs_another_layout", !a.same || a.same->fit == Fit::kShort);
    of.put("step_time_s", a.same ? Value(a.same->step) : Value());
    of.put("memory_bytes", a.same ? Value(a.same->memory.need()) : Value());
    of.put("memory_verdict", a.same ? Value(kFits[a.same->fit]) : Value());
    of.put("best_there", a.other ? Value(to_string(a.other->screened.candidate)) : Value());
    of.put("best_there_step_time_s", a.other ? Value(a.other->step) : Value());
  }
}

void put_largest(Report& r, const Plan& base, Grown what, const Largest& found) {
  const double parameters = static_cast<double>(total_parameters(base.model.architecture));
  const std::string model =
      what == Grown::kSequence ? "" : fmt::format(", {:.4g}B parameters", parameters * 1e-9);
  r.say(fmt::format("the largest {} that fits: {}{} ({} does not)\n\n",
                    kGrown[what],
                    found.value,
                    model,
                    found.too_large));
  Report& of = r.section("largest");
  of.put("what", kGrown[what]);
  of.put("value", found.value);
  of.put("too_large", found.too_large);
  of.put("parameters", parameters);
}

void put_grounds(Report& r,
                 const Plan& plan,
                 const std::optional<Calibration>& calibration,
                 double imbalance) {
  std::vector<std::string> lines;
  if (calibration) {
    const bool gpus = plan.cluster.of_gpus();
    Plan some = plan;
    some.training.micro_batches = std::min(some.training.micro_batches, 4 * plan.layout.pp);
    const Plan& priced = why_not(some).empty() ? some : plan;
    const Prediction p =
        rehearse::simulate(priced,
                           build_program(priced),
                           calibration,
                           {.keep = Keep::kSummary, .fold = gpus, .level_routes = gpus});
    r.say("\nwhat this rests on\n");
    put_sources(r, plan, p.sources);
  } else {
    lines.emplace_back(
        "No measured kernel: work takes what flops and bytes allow, which is optimistic.");
  }
  lines.push_back(
      imbalance == 1
          ? "Experts are balanced (--imbalance for memory; expert_load of a plan for `simulate`)."
          : fmt::format(
                "The fullest rank's experts have {:.2f} times the mean's rows in memory; in time "
                "they are balanced.",
                imbalance));
  lines.emplace_back(
      "Ranks stand in one order: TP within CP within EP and DP within PP, nodes filled one by "
      "one.");
  lines.emplace_back(
      "Not modelled: failures and restarts, checkpoints, reading of data, stragglers but one slow "
      "device, other jobs on the network.");
  for (const std::string& line : lines) r.say("  " + line + "\n");
  r.put("not_modelled", std::vector<Value>(lines.begin(), lines.end()));
}

}  // namespace rehearse::cli
