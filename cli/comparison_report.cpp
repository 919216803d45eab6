#include <fmt/format.h>

#include "cli/disturbance.h"
#include "cli/reports.h"

namespace rehearse::cli {
namespace {

// heading: what the pairs are.
Report::Table pairs_table(const std::string& heading, const std::vector<Comparison::Pair>& pairs) {
  const bool counted = !pairs.empty() && pairs.front().count > 0;
  Report::Table table{.columns = {{"", heading},
                                  {counted ? "ops" : "", ""},
                                  {"predicted_s", "predicted"},
                                  {"measured_s", "measured"},
                                  {"error", "error"},
                                  {"difference_s", "difference"}},
                      .by_first = true};
  for (const Comparison::Pair& p : pairs) {
    const std::optional<double> error = p.error();
    std::vector<Value> row = {{counted ? fmt::format("{} x {}", p.name, p.count) : p.name, p.name},
                              p.count,
                              p.predicted,
                              p.measured,
                              error ? signed_share(*error) : Value("-", Value::Scalar()),
                              signed_time(p.difference())};
    const bool nothing = p.predicted == Duration() && p.measured == Duration();
    (nothing ? table.unseen : table.rows).push_back(std::move(row));
  }
  return table;
}

void add_verdict(Report& report, const Comparison& c) {
  const Comparison::Cause cause = c.cause();
  report.say(fmt::format(
      "measured less predicted: {} of the step; per rank {} in compute ops and {} in waiting\n",
      signed_time(c.measured_step - c.predicted_step).text,
      signed_time(cause.in_ops).text,
      signed_time(cause.in_waiting).text));
  if (cause.most == nullptr) return;
  const std::string difference = signed_time(cause.most->difference()).text;
  report.say(
      cause.mostly_ops
          ? fmt::format("mostly the ops: {} differs most, {} over all ranks\n",
                        cause.most->name,
                        difference)
          : fmt::format("mostly the waiting: {}, {} per rank\n", cause.most->name, difference));
}

void add_step(Report& r, const Comparison& c) {
  const bool uncalibrated = !c.calibrated.value_or(true);
  Report::Table step{.columns = {{"", ""},
                                 {"", uncalibrated ? "predicted, uncalibrated" : "predicted"},
                                 {"", "measured"},
                                 {"", "error"}}};
  step.row({"step", c.predicted_step, c.measured_step, signed_share(c.step_error)});
  const auto fraction = [&](const std::string& name, double p, double m) {
    step.row({name, share(p), share(m), fmt::format("{:+.1f} points", 100 * (p - m))});
  };
  fraction("bubble", c.predicted.bubble_fraction, c.measured.bubble_fraction);
  fraction(
      "exposed communication", c.predicted.exposed_comm_fraction, c.measured.exposed_comm_fraction);
  r.table("", std::move(step));
  r.say(
      "  error: predicted / measured - 1, below 0 where the prediction is too short;\n"
      "  in points: predicted - measured\n");
  r.put("step_time_error", c.step_error);
  r.put("op_time_error_median", c.op_error_median);
  r.put("op_time_error_median_abs", c.op_error_median_abs);
  r.put("op_time_error_mean_abs", c.op_error_mean_abs);
  r.put("step_time_predicted_s", c.predicted_step);
  r.put("step_time_measured_s", c.measured_step);
  r.put("exposed_comm_predicted", c.predicted.exposed_comm_fraction);
  r.put("exposed_comm_measured", c.measured.exposed_comm_fraction);
  r.put("bubble_predicted", c.predicted.bubble_fraction);
  r.put("bubble_measured", c.measured.bubble_fraction);
}

// What disturbed the measurement and what the prediction lacks, before any figure.
void add_warnings(Report& r, const Comparison& c) {
  const std::string measured = "the step was measured";
  put_warnings(r,
               {busy_warning(c.load, measured),
                late_warning(c.waking, c.measured_step, measured),
                c.calibrated.value_or(true) ? "" : std::string(kUncalibrated)},
               "the errors below include that");
  r.put("calibrated", c.calibrated ? Value(*c.calibrated) : Value());
  put_load(r, "machine_load", c.load);
  put_waking(r, c.waking);
}

}  // namespace

Report comparison_report(const Comparison& c) {
  Report r;
  add_warnings(r, c);
  add_step(r, c);
  r.say("\n");
  r.table("ops_by_kind", pairs_table("ops, summed over ranks", c.kinds));
  r.say(fmt::format(
      "  x: of so many ops; -: nothing was measured; difference: measured - predicted;\n"
      "  ops that share a core last longer, not more\n"
      "  error of single ops: median {}; of absolute errors median {:.1f}%, mean {:.1f}%\n\n",
      percent(c.op_error_median),
      100 * c.op_error_median_abs,
      100 * c.op_error_mean_abs));
  r.table("phases", pairs_table("phases, mean over ranks", c.phases()));
  r.say("\n");
  r.table("compute_lane", pairs_table("compute lane, mean over ranks", c.lane));
  Report::Table ranks{.columns = {{"", "compute lane by rank"},
                                  {"work_predicted_s", "ops predicted"},
                                  {"work_measured_s", "measured"},
                                  {"waiting_predicted_s", "waiting predicted"},
                                  {"waiting_measured_s", "measured"}},
                      .shown = 16};
  for (const Comparison::Rank& rank : c.ranks) {
    ranks.row({rank.work.name,
               rank.work.predicted,
               rank.work.measured,
               rank.waiting.predicted,
               rank.waiting.measured});
  }
  r.say("\n");
  r.table("ranks", std::move(ranks));
  r.say("\n");
  add_verdict(r, c);
  return r;
}

}  // namespace rehearse::cli
