#include "sim/budget.h"

#include "plan/program/memory.h"

namespace rehearse {
namespace {

// One EP group's load for all layers, micro-batches and groups, so that the rest can be folded.
StepPrediction folded_step(Plan plan, const std::optional<Calibration>& calibration) {
  if (!plan.expert_load.balanced()) plan.expert_load.varies = LoadVaries::kNever;
  const Program program = build_program(plan);
  validate(program);
  return predict(plan, program, calibration, {.keep = Keep::kSummary, .fold = true});
}

// Seconds of something that takes as long as the step.
Figure of_step(const StepPrediction& step) {
  return {step.summary.step.seconds(), step.low.seconds(), step.high.seconds()};
}
// Of a rate.
Figure per_step(const StepPrediction& step, double amount) {
  return {amount / step.summary.step.seconds(),
          amount / step.high.seconds(),
          amount / step.low.seconds()};
}

Figure gpu_hours(const Plan& plan, const Figure& step_s, double tokens) {
  const double steps = tokens / static_cast<double>(plan.step_tokens());
  return step_s.times(steps * static_cast<double>(plan.layout.world()) / 3600);
}

// Whether a step of `p` is one of `plan`.
bool same_step(const Plan& p, const Plan& plan) {
  return p.layout == plan.layout && p.training.micro_batches == plan.training.micro_batches &&
         p.training.micro_batch_size == plan.training.micro_batch_size &&
         p.training.sequence_length == plan.training.sequence_length;
}

}  // namespace

Figure& Figure::operator+=(const Figure& f) {
  value += f.value;
  low += f.low;
  high += f.high;
  return *this;
}

Speeds speeds_of(const Plan& plan, const StepPrediction& step) {
  const auto tokens = static_cast<double>(plan.step_tokens());
  const auto per_gpu = [&](bool causal) {
    const Flops flops =
        training_flops_per_token(plan.model.architecture, plan.training.sequence_length, causal);
    return per_step(step, flops.count() * tokens / static_cast<double>(plan.layout.world()));
  };
  const Figure causal = per_gpu(true);
  const Figure all = per_gpu(false);
  const double peak = plan.cluster.peak.value();
  return {.tflops_causal = causal.times(1e-12),
          .tflops_noncausal = all.times(1e-12),
          .mfu_causal = causal.times(1 / peak),
          .mfu_noncausal = all.times(1 / peak),
          .tokens_per_day = per_step(step, tokens * 86400)};
}

BudgetResult predict_budget(const Plan& plan,
                            const std::optional<Calibration>& calibration,
                            const StepPrediction& step,
                            const std::function<void(int64_t, int64_t)>& progress) {
  BudgetResult b;
  if (plan.training.tokens) {
    b.gpu_hours_pretrain = gpu_hours(plan, of_step(step), *plan.training.tokens);
  }
  double correction = 1;
  if (!plan.budget.phases.empty() && plan.cluster.of_gpus() && !plan.expert_load.balanced()) {
    correction = step.summary.step / folded_step(plan, calibration).summary.step;
  }
  int64_t parts = 0;
  for (const Phase& phase : plan.budget.phases) parts += static_cast<int64_t>(phase.parts.size());
  int64_t done = 0;
  for (const Phase& phase : plan.budget.phases) {
    PhaseResult r{.name = phase.name};
    for (const PhasePart& part : phase.parts) {
      const Plan p = plan_of(plan, part);
      const Figure step_s = same_step(p, plan)
                                ? of_step(step)
                                : of_step(folded_step(p, calibration)).times(correction);
      r.tokens += part.tokens;
      r.sequences.push_back(part.sequences);
      r.steps.push_back(Duration::seconds(step_s.value));
      r.fits &= fits_memory(p);
      const Figure of_part = gpu_hours(p, step_s, part.tokens);
      r.gpu_hours += of_part;
      r.days += of_part.times(1 / (24 * static_cast<double>(p.layout.world())));
      if (progress) progress(++done, parts);
    }
    b.gpu_hours_total += r.gpu_hours;
    b.days += r.days;
    b.phases.push_back(std::move(r));
  }
  if (b.phases.empty()) {
    b.gpu_hours_total = *b.gpu_hours_pretrain;
    b.days = b.gpu_hours_total.times(1 / (24 * static_cast<double>(plan.layout.world())));
  }
  if (plan.budget.usd_per_gpu_hour) {
    b.cost_usd = b.gpu_hours_total.times(*plan.budget.usd_per_gpu_hour);
  }
  if (plan.budget.watts_per_gpu) {
    b.energy_mwh = b.gpu_hours_total.times(*plan.budget.watts_per_gpu * 1e-6);
  }
  return b;
}

}  // namespace rehearse
