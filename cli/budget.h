#pragma once
// What the whole training of a plan takes: GPU-hours, days, cost and energy, phase by phase.

#include "cli/results.h"

namespace rehearse::cli {

// A figure with its 90% interval.
struct Figure {
  double value = 0, low = 0, high = 0;
  Figure times(double factor) const { return {value * factor, low * factor, high * factor}; }
};

struct PhaseResult {
  std::string name;
  double tokens = 0;
  std::vector<int64_t> sequences;  // per step, of its parts
  std::vector<double> steps_s;
  Figure gpu_hours, days;
  bool fits = true;  // in the devices' memory
};

struct BudgetResult {
  std::optional<Figure> gpu_hours_pretrain;  // the plan's tokens, all at its own step
  std::vector<PhaseResult> phases;
  Figure gpu_hours_total, days;  // of the phases; without phases those of pre-training
  std::optional<Figure> cost_usd, energy_mwh;
};

// REQUIRES: plan.training.tokens, or phases. `step`: the plan's own. Steps of the phases are
// simulated with data ranks folded: where every rank and all-to-all has a load of its own, with one
// draw of it for all, times how much that is off for the plan's own step.
BudgetResult predict_budget(const Plan& plan,
                            const std::optional<Calibration>& calibration,
                            const StepPrediction& step,
                            bool quiet);

// Adds tflops_per_gpu_causal and so on to a prediction's object, each with its interval beside it.
void add_speeds(Json& json, const Plan& plan, const StepPrediction& step);
std::string speeds_text(const Plan& plan, const StepPrediction& step);
// gpu_hours_pretrain and so on, likewise.
void add_budget(Json& json, const BudgetResult& budget);
std::string budget_text(const BudgetResult& budget);

}  // namespace rehearse::cli
