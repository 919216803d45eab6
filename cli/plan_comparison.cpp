#include "cli/plan_comparison.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/file.h"
#include "cli/plan_report.h"
#include "cli/whole_number.h"
#include "plan/keys.h"
#include "search/sensitivity.h"

namespace rehearse::cli {
namespace {

using SettingKey = std::pair<std::string, std::string>;  // section, key

// A plan's file, key by key; and phases of its budget, in a line.
std::map<SettingKey, std::string> settings_by_key(const Plan& plan) {
  std::map<SettingKey, std::string> all;
  for (PlanSetting& s : settings_of(plan)) all[{s.section, s.key}] = std::move(s.value);
  std::vector<std::string> phases;
  for (const Phase& phase : plan.budget.phases) {
    for (const PhasePart& part : phase.parts) {
      std::string text;
      for (const PlanSetting& s : settings_of(plan_of(plan, part))) {
        if (s.section == "layout" || s.section == "training") {
          text += fmt::format(" {}: {}", s.key, s.value);
        }
      }
      phases.push_back(
          fmt::format("{}: {} x {:.0f} tokens,{}", phase.name, part.sequences, part.tokens, text));
    }
  }
  if (!phases.empty()) all[{"budget", "phases"}] = fmt::format("{}", fmt::join(phases, "; "));
  // What files hold decides, not what they are called.
  all[{"", "model"}] = plan.model.name;
  all[{"", "cluster"}] = plan.cluster.name;
  return all;
}

bool same_contents(const Plan& a, const Plan& b, size_t file) {
  return same_file(a.files.at(file), b.files.at(file)) ||
         read_file(a.files.at(file)) == read_file(b.files.at(file));
}

// A whole number as such, for programs.
Value setting_value(const std::string& shown, const std::string& text) {
  const auto n = whole_number(text);
  return n ? Value(*n) : Value(shown, text);
}

double to_gb(Bytes b) {
  return static_cast<double>(b.count()) * 1e-9;
}

Scored scored_plan(const PricedPlan& p) {
  return score(p.plan,
               p.calibration,
               screened_alone(p.plan, p.calibration, candidate_of(p.plan), Objective::kTime),
               Objective::kTime);
}

void put_plan(Report& r, const char* name, const Plan& plan, const Scored& s) {
  const PlanFigures f = figures_of(plan, s.screened.candidate, s.step);
  r.say(
      fmt::format("{}: {}\n   {} on {}: {}\n   {:.3g} s (90%: {:.3g} to {:.3g}), {:.0f} tokens/s "
                  "per GPU, {:.0f} GB on rank {}: {}; {}\n",
                  name,
                  plan.path,
                  plan.model.name,
                  plan.cluster.name,
                  to_string(s.screened.candidate),
                  s.step,
                  s.low,
                  s.high,
                  f.tokens_per_second_per_gpu,
                  to_gb(s.memory.need()),
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
}

// Parts of a step, or of memory: a, b and what of the whole difference each is.
void put_parts(Report& r,
               const char* key,
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
}

std::vector<PartDifference> memory_parts(const RankMemory& m, const RankMemory& n) {
  return {{"need", to_gb(m.need()), to_gb(n.need())},
          {"parameters", to_gb(m.parameters), to_gb(n.parameters)},
          {"gradients", to_gb(m.gradients), to_gb(n.gradients)},
          {"optimizer", to_gb(m.optimizer), to_gb(n.optimizer)},
          {"activations", to_gb(m.activations), to_gb(n.activations)},
          {"passing", to_gb(m.passing), to_gb(n.passing)},
          {"set aside", to_gb(m.reserve), to_gb(n.reserve)}};
}

void put_differences(Report& r, const Plan& a, const Plan& b) {
  Report::Table differs{.columns = {{"setting", "setting"}, {"a", "A"}, {"b", "B"}}};
  for (const PlanDifference& d : plan_differences(a, b)) {
    const bool stages = d.setting == "layers_per_stage";
    differs.row({d.setting,
                 setting_value(stages ? stages_text(a.layout) : d.a, d.a),
                 setting_value(stages ? stages_text(b.layout) : d.b, d.b)});
  }
  if (differs.rows.empty()) r.say("  the plans are the same: no key of theirs differs\n");
  r.table("differences", std::move(differs));
}

}  // namespace

std::vector<PlanDifference> plan_differences(const Plan& a, const Plan& b) {
  std::map<SettingKey, std::string> of_a = settings_by_key(a);
  std::map<SettingKey, std::string> of_b = settings_by_key(b);
  std::vector<PlanDifference> all;
  if (a.layout.world() != b.layout.world()) {
    all.push_back({"gpus", std::to_string(a.layout.world()), std::to_string(b.layout.world())});
  }
  for (const KeySection& section : plan_keys()) {
    for (const YamlKey& key : section.keys) {
      const SettingKey name{section.name, key.key};
      const auto take = [&](std::map<SettingKey, std::string>& of) {
        const auto node = of.extract(name);
        return node.empty() ? key.missing : node.mapped();
      };
      PlanDifference d{.setting = key.key, .a = take(of_a), .b = take(of_b)};
      if (!section.name.empty() && section.name != "layout" && section.name != "training") {
        d.setting = section.name + "." + key.key;
      }
      if (name == SettingKey("", "model") && !same_contents(a, b, 1)) {
        if (d.a == d.b) std::tie(d.a, d.b) = std::pair(a.files.at(1), b.files.at(1));
        all.push_back(d);
      } else if (name == SettingKey("", "cluster") && !same_contents(a, b, 2)) {
        if (d.a == d.b) std::tie(d.a, d.b) = std::pair(a.files.at(2), b.files.at(2));
        all.push_back(d);
      } else if (d.a != d.b) {
        all.push_back(d);
      }
    }
  }
  // Whatever a plan's file says has its key.
  CHECK(of_a.empty() && of_b.empty())
      << "no key of a plan: " << (of_a.empty() ? of_b : of_a).begin()->first.second;
  return all;
}

Report two_plans_report(const PricedPlan& a, const PricedPlan& b, bool one_calibration) {
  Report r;
  const std::array<Scored, 2> scored{scored_plan(a), scored_plan(b)};
  put_plan(r, "A", a.plan, scored[0]);
  put_plan(r, "B", b.plan, scored[1]);
  r.say("\n");
  put_parts(
      r, "step_parts", "step", compare_steps(a.plan, b.plan, a.calibration, b.calibration), "s");
  put_parts(r,
            "memory_parts",
            "memory of the fullest rank",
            memory_parts(scored[0].memory, scored[1].memory),
            "GB");
  put_differences(r, a.plan, b.plan);
  // B's time for a token over A's. The interval is the ratio's own: what prices are off by both
  // steps are made of.
  const double ratio = scored[1].step / static_cast<double>(b.plan.step_tokens()) /
                       (scored[0].step / static_cast<double>(a.plan.step_tokens()));
  constexpr double kNinety = 1.645;
  const double spread = ratio_spread(a, b, one_calibration);
  const double low = ratio * std::exp(-kNinety * spread);
  const double high = ratio * std::exp(kNinety * spread);
  const bool tied = low <= 1 && high >= 1;
  r.put("tied", tied);
  r.put("b_over_a_per_token", ratio - 1);
  r.put("b_over_a_interval", {low - 1, high - 1});
  r.say(fmt::format("\nB takes {} of A's time for a token", percent(ratio - 1)));
  if (spread > 0) {
    r.say(fmt::format(" (90%: {} to {}, {})",
                      percent(low - 1),
                      percent(high - 1),
                      one_calibration ? "the same prices being off by as much in both"
                                      : "prices of each being off by themselves"));
  }
  r.say(tied ? ": they are tied\n" : ": not tied\n");
  return r;
}

}  // namespace rehearse::cli
