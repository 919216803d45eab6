#include <fmt/format.h>

#include "cli/disturbance.h"
#include "cli/reports.h"
#include "runtime/train.h"

namespace rehearse::cli {

Report training_report(const Plan& plan, const Program& program, const TrainResult& t) {
  const Summary s = summarize(program, t.timeline);
  const double tokens_per_s = static_cast<double>(plan.step_tokens()) / t.median_step.seconds();
  Report r;
  put_warnings(r, {busy_warning(t.timeline.load, "this ran")}, "the times below include that");
  put_load(r, "machine_load", t.timeline.load);
  r.say(fmt::format(
      "{}: loss {:.4f} -> {:.4f}, {} nats per token\n",
      t.first_step == 0 ? fmt::format("{} steps", t.steps)
                        : fmt::format("steps {} to {}", t.first_step + 1, t.steps),
      t.first_loss,
      t.last_loss,
      t.validation_loss ? fmt::format("validation {:.4f}", *t.validation_loss) : "no validation,"));
  r.put("steps", t.steps);
  r.put("first_step", t.first_step + 1);
  r.put("loss_first", t.first_loss);
  r.put("loss_last", t.last_loss);
  r.put("val_loss", t.validation_loss ? Value(*t.validation_loss) : Value());
  r.line("step_time_s", "step time (median)", t.median_step);
  r.line("tokens_per_s", "tokens per second", {fmt::format("{:.0f}", tokens_per_s), tokens_per_s});
  r.line("bubble_fraction", "bubble", share(s.bubble_fraction));
  r.line("exposed_comm_fraction", "exposed communication", share(s.exposed_comm_fraction));
  r.line("max_expert_load",
         "largest expert load",
         {fmt::format("{:.2f} x mean (last tenth of the steps)", t.max_expert_load),
          t.max_expert_load});
  if (plan.cluster.emulated()) {
    const Overruns& o = t.overruns;
    const double by = o.held == Duration() ? 0 : o.time / o.held;
    r.line("overrun_share",
           "ops beyond their time",
           {fmt::format("{} of {}, by {} in all, {:.2f}% of the time of all",
                        o.ops,
                        o.of,
                        to_string(o.time),
                        100 * by),
            by});
    r.put("overruns", o.ops);
    r.put("overrun_s", o.time);
    constexpr double kNoticed = 0.01;
    if (by > kNoticed) {
      r.say(
          fmt::format("  warning: this machine's cores are too slow or too few for the devices "
                      "that {} emulates:\n"
                      "  slow its peak, memory_bandwidth and links by one factor, or predict with "
                      "--calibration\n"
                      "  (rehearse calibrate {}), which prices what the cores take\n",
                      plan.cluster.name,
                      plan.path));
    }
  }
  r.say("\n");
  put_breakdown(r.section("breakdown_s"), s.ranks.front());
  put_breakdown(r.section("breakdown_mean_s"), mean(s.ranks));
  r.put("activation_bytes", t.memory);
  r.table("breakdown_ranks_s", breakdown_table(program, s));
  return r;
}

}  // namespace rehearse::cli
