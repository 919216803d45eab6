#include <fmt/format.h>

#include "cli/reports.h"
#include "runtime/train.h"

namespace rehearse::cli {

Report training_report(const Plan& plan, const Program& program, const TrainResult& t) {
  const Summary s = summarize(program, t.timeline);
  const double tokens_per_s = static_cast<double>(plan.step_tokens()) / t.median_step.seconds();
  Report r;
  r.say(fmt::format(
      "{} steps: loss {:.4f} -> {:.4f}, {} nats per token\n",
      t.steps,
      t.first_loss,
      t.last_loss,
      t.validation_loss ? fmt::format("validation {:.4f}", *t.validation_loss) : "no validation,"));
  r.put("steps", t.steps);
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
  r.say("\n");
  put_breakdown(r.section("breakdown_s"), s.ranks.front());
  put_breakdown(r.section("breakdown_mean_s"), mean(s.ranks));
  r.put("activation_bytes", t.memory);
  r.table("breakdown_ranks_s", breakdown_table(program, s));
  return r;
}

}  // namespace rehearse::cli
