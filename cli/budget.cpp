#include "cli/budget.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/progress.h"
#include "cli/command.h"
#include "cost/op_kernels.h"

namespace rehearse::cli {
namespace {

// One EP group's load for all layers, micro-batches and groups, so that the rest can be folded.
StepPrediction folded_step(Plan plan, const std::optional<Calibration>& calibration) {
  if (!plan.expert_load.balanced()) plan.expert_load.varies = LoadVaries::kNever;
  const Program program = build_program(plan);
  validate(program);
  return predict(plan, program, calibration, true, {.keep = Keep::kSummary, .fold = true});
}

// Of something that takes as long as the step.
Figure of_step(const StepPrediction& step) {
  return {step.summary.step.seconds(), step.low.seconds(), step.high.seconds()};
}
// Of a rate.
Figure per_step(const StepPrediction& step, double amount) {
  return {amount / step.summary.step.seconds(),
          amount / step.high.seconds(),
          amount / step.low.seconds()};
}

struct Speeds {
  Figure tflops_causal, tflops_noncausal, mfu_causal, mfu_noncausal, tokens_per_day;
};

// FLOPs: layers and head, no MTP, no recomputation; MFU against the devices' BF16 peak.
Speeds speeds(const Plan& plan, const StepPrediction& step) {
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

void put(Json& json, const std::string& name, const Figure& f) {
  json[name] = f.value;
  json[name + "_interval"] = {f.low, f.high};
}

std::string line(std::string_view name, const Figure& f) {
  return fmt::format("  {:<22} {:.4g}   (90%: {:.4g} to {:.4g})\n", name, f.value, f.low, f.high);
}

}  // namespace

BudgetResult predict_budget(const Plan& plan,
                            const std::optional<Calibration>& calibration,
                            const StepPrediction& step,
                            bool quiet) {
  BudgetResult b;
  const auto hours = [](const Plan& p, const Figure& step_s, double tokens) {
    return step_s.times(tokens / static_cast<double>(p.step_tokens()) *
                        static_cast<double>(p.layout.world()) / 3600);
  };
  if (plan.training.tokens) {
    b.gpu_hours_pretrain = hours(plan, of_step(step), *plan.training.tokens);
  }
  const bool gpu = plan.cluster.device == DeviceKind::kGpu;
  double correction = 1;
  if (!plan.budget.phases.empty() && gpu && !plan.expert_load.balanced()) {
    correction = step.summary.step / folded_step(plan, calibration).summary.step;
  }
  int64_t parts = 0;
  for (const Phase& phase : plan.budget.phases) parts += static_cast<int64_t>(phase.parts.size());
  Progress progress({.label = "phases", .total = std::max<int64_t>(1, parts), .quiet = quiet});
  int64_t done = 0;
  const auto add = [](Figure& sum, const Figure& f) {
    sum.value += f.value;
    sum.low += f.low;
    sum.high += f.high;
  };
  for (const Phase& phase : plan.budget.phases) {
    PhaseResult r{.name = phase.name};
    for (const PhasePart& part : phase.parts) {
      const Plan p = plan_of(plan, part);
      const bool own = p.layout == plan.layout &&
                       p.training.micro_batches == plan.training.micro_batches &&
                       p.training.micro_batch_size == plan.training.micro_batch_size &&
                       p.training.sequence_length == plan.training.sequence_length &&
                       p.training.context_parallel == plan.training.context_parallel;
      const Figure step_s =
          own ? of_step(step) : of_step(folded_step(p, calibration)).times(correction);
      r.tokens += part.tokens;
      r.sequences.push_back(part.sequences);
      r.steps_s.push_back(step_s.value);
      r.fits &= fits_memory(p);
      const Figure of_part = hours(p, step_s, part.tokens);
      add(r.gpu_hours, of_part);
      add(r.days, of_part.times(1 / (24 * static_cast<double>(p.layout.world()))));
      progress.update(++done);
    }
    add(b.gpu_hours_total, r.gpu_hours);
    add(b.days, r.days);
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

void add_speeds(Json& json, const Plan& plan, const StepPrediction& step) {
  const Speeds s = speeds(plan, step);
  put(json, "tflops_per_gpu_causal", s.tflops_causal);
  put(json, "tflops_per_gpu_noncausal", s.tflops_noncausal);
  put(json, "mfu_causal", s.mfu_causal);
  put(json, "mfu_noncausal", s.mfu_noncausal);
  put(json, "tokens_per_day", s.tokens_per_day);
}

std::string speeds_text(const Plan& plan, const StepPrediction& step) {
  const Speeds s = speeds(plan, step);
  return "\nspeed\n" + line("TFLOP/s per GPU", s.tflops_causal) +
         line("  attention in full", s.tflops_noncausal) +
         line("MFU, of the BF16 peak", s.mfu_causal) +
         line("  attention in full", s.mfu_noncausal) + line("tokens per day", s.tokens_per_day);
}

void add_budget(Json& json, const BudgetResult& b) {
  if (b.gpu_hours_pretrain) {
    put(json, "gpu_hours_pretrain", *b.gpu_hours_pretrain);
    json["gpu_hours"] = b.gpu_hours_pretrain->value;
  }
  put(json, "gpu_hours_total", b.gpu_hours_total);
  put(json, "days", b.days);
  if (b.cost_usd) put(json, "cost_usd", *b.cost_usd);
  if (b.energy_mwh) put(json, "energy_mwh", *b.energy_mwh);
  Json phases = Json::array();
  for (const PhaseResult& r : b.phases) {
    Json phase = {{"name", r.name},
                  {"tokens", r.tokens},
                  {"sequences_per_step", r.sequences},
                  {"step_time_s", r.steps_s},
                  {"fits_memory", r.fits}};
    put(phase, "gpu_hours", r.gpu_hours);
    put(phase, "days", r.days);
    phases.push_back(std::move(phase));
  }
  json["phases"] = std::move(phases);
}

std::string budget_text(const BudgetResult& b) {
  std::string out = "\nwhole training\n";
  if (b.gpu_hours_pretrain) out += line("GPU-hours, steady step", *b.gpu_hours_pretrain);
  if (!b.phases.empty()) {
    Table table({"phase", "tokens", "sequences per step", "step", "GPU-hours", "days", "memory"});
    for (const PhaseResult& r : b.phases) {
      std::vector<std::string> steps;
      for (const double t : r.steps_s) steps.push_back(fmt::format("{:.2f} s", t));
      table.row({r.name,
                 fmt::format("{:.4g}B", r.tokens * 1e-9),
                 fmt::format("{}", fmt::join(r.sequences, ", ")),
                 fmt::format("{}", fmt::join(steps, ", ")),
                 fmt::format("{:.0f}", r.gpu_hours.value),
                 fmt::format("{:.2f}", r.days.value),
                 r.fits ? "fits" : "TOO LITTLE"});
    }
    out += "\n" + table.text() + "\n";
  }
  out += line("GPU-hours, all", b.gpu_hours_total);
  out += line("days", b.days);
  if (b.cost_usd) out += line("cost, USD", *b.cost_usd);
  if (b.energy_mwh) out += line("energy, MWh", *b.energy_mwh);
  return out;
}

}  // namespace rehearse::cli
