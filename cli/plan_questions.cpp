#include "cli/plan_questions.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "cli/plan_report.h"
#include "cli/reports.h"
#include "search/sensitivity.h"

namespace rehearse::cli {
namespace {

double in_gb(Bytes b) {
  return static_cast<double>(b.count()) * 1e-9;
}

Scored scored_plan(const Plan& plan, const std::optional<Calibration>& calibration) {
  return score(plan,
               calibration,
               screened_alone(plan, calibration, candidate_of(plan), Objective::kTime),
               Objective::kTime);
}

}  // namespace

Report two_plans_report(const Plan& a,
                        const std::optional<Calibration>& of_a,
                        const Plan& b,
                        const std::optional<Calibration>& of_b) {
  Report r;
  std::vector<Scored> scored;
  const std::array<const Plan*, 2> plans{&a, &b};
  const std::array<const std::optional<Calibration>*, 2> calibrations{&of_a, &of_b};
  const std::array<const char*, 2> names{"A", "B"};
  for (size_t i = 0; i < 2; ++i) {
    const Plan& plan = *plans[i];
    const Scored s = scored_plan(plan, *calibrations[i]);
    const PlanFigures f = figures_of(plan, s.screened.candidate, s.step);
    r.say(
        fmt::format("{}: {}\n   {} on {}: {}\n   {:.3g} s (90%: {:.3g} to {:.3g}), {:.0f} tokens/s "
                    "per GPU, {:.0f} GB on rank {}: {}; {}\n",
                    names[i],
                    plan.path,
                    plan.model.name,
                    plan.cluster.name,
                    to_string(s.screened.candidate),
                    s.step,
                    s.low,
                    s.high,
                    f.tokens_per_second_per_gpu,
                    in_gb(s.memory.need()),
                    s.fullest,
                    kFits[s.fit],
                    s.limited_by));
    Report& of = r.item("plans");
    of.put("path", plan.path);
    of.put("layout_text", to_string(s.screened.candidate));
    of.put("gpus", plan.layout.world());
    of.put("step_time_s", s.step);
    of.put("interval_s", {s.low, s.high});
    of.put("tokens_per_s_per_gpu", f.tokens_per_second_per_gpu);
    of.put("memory_bytes", s.memory.need());
    of.put("memory_verdict", kFits[s.fit]);
    of.put("gpu_hours_per_trillion", f.gpu_hours_per_trillion);
    of.put("limited_by", s.limited_by);
    scored.push_back(s);
  }
  const bool apart = scored[0].high < scored[1].low || scored[1].high < scored[0].low;
  r.put("tied", !apart);
  r.say("\n");
  // Parts of a step, and of memory: a, b and what of the whole difference each is.
  const auto table = [&](const char* key,
                         const char* heading,
                         const std::vector<PartDifference>& parts,
                         const char* unit) {
    Report::Table t{.columns = {{"part", heading},
                                {"a", fmt::format("A, {}", unit)},
                                {"b", fmt::format("B, {}", unit)},
                                {"difference", "B - A"},
                                {"share", "of the difference"}}};
    const double whole = parts.front().b - parts.front().a;
    for (const PartDifference& p : parts) {
      const double d = p.b - p.a;
      const bool told = std::abs(whole) > 1e-6 * parts.front().a;
      t.row({p.part,
             Value(fmt::format("{:.3f}", p.a), p.a),
             Value(fmt::format("{:.3f}", p.b), p.b),
             Value(fmt::format("{:+.3f}", d), d),
             told ? Value(fmt::format("{:.0f}%", 100 * d / whole), d / whole) : Value()});
    }
    r.table(key, std::move(t));
    r.say("\n");
  };
  table("step_parts", "step", compare_steps(a, b, of_a, of_b), "s");
  const RankMemory& m = scored[0].memory;
  const RankMemory& n = scored[1].memory;
  table("memory_parts",
        "memory of the fullest rank",
        {{"need", in_gb(m.need()), in_gb(n.need())},
         {"parameters", in_gb(m.parameters), in_gb(n.parameters)},
         {"gradients", in_gb(m.gradients), in_gb(n.gradients)},
         {"optimizer", in_gb(m.optimizer), in_gb(n.optimizer)},
         {"activations", in_gb(m.activations), in_gb(n.activations)},
         {"passing", in_gb(m.passing), in_gb(n.passing)},
         {"set aside", in_gb(m.reserve), in_gb(n.reserve)}},
        "GB");
  // What the layouts do differently.
  const Candidate& x = scored[0].screened.candidate;
  const Candidate& y = scored[1].screened.candidate;
  Report::Table differs{.columns = {{"setting", "setting"}, {"a", "A"}, {"b", "B"}}};
  const auto differ = [&](const char* what, auto of_x, auto of_y) {
    if (of_x != of_y) differs.row({what, of_x, of_y});
  };
  differ("gpus", x.gpus, y.gpus);
  differ("pp", x.layout.pp, y.layout.pp);
  differ("dp", x.layout.dp, y.layout.dp);
  differ("ep", x.layout.ep, y.layout.ep);
  differ("etp", x.layout.etp, y.layout.etp);
  differ("tp", x.layout.tp, y.layout.tp);
  differ("cp", x.layout.cp, y.layout.cp);
  differ("schedule", name_of(x.layout.schedule), name_of(y.layout.schedule));
  differ("micro_batches", x.micro_batches, y.micro_batches);
  differ("micro_batch_size", x.micro_batch_size, y.micro_batch_size);
  differ("sequence_length", x.sequence, y.sequence);
  differ("precision", kPrecisions[x.precision], kPrecisions[y.precision]);
  differ("rank_order", kRankOrders[x.layout.rank_order], kRankOrders[y.layout.rank_order]);
  differ("zero_stage", x.layout.zero_stage, y.layout.zero_stage);
  differ("recompute", recompute_text(x.recompute), recompute_text(y.recompute));
  differ("dispatcher", kDispatchers[x.layout.dispatcher], kDispatchers[y.layout.dispatcher]);
  differ("communication_sms", x.communication_sms, y.communication_sms);
  if (differs.rows.empty()) r.say("  the layouts are the same\n");
  r.table("differences", std::move(differs));
  const double per_token_a = scored[0].step / static_cast<double>(a.step_tokens());
  const double per_token_b = scored[1].step / static_cast<double>(b.step_tokens());
  r.put("b_over_a_per_token", per_token_b / per_token_a - 1);
  r.say(fmt::format(
      "\nB takes {} of A's time for a token: {}\n",
      percent(per_token_b / per_token_a - 1),
      apart ? "their intervals do not touch" : "within their intervals, so they are tied"));
  return r;
}

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
