#pragma once
// What the whole training of a plan takes: GPU-hours, days, cost and energy, phase by phase; and
// what a step's time means as speeds.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "sim/predict.h"

namespace rehearse {

// A figure with its 90% interval.
struct Figure {
  double value = 0, low = 0, high = 0;
  Figure times(double factor) const { return {value * factor, low * factor, high * factor}; }
  Figure& operator+=(const Figure& f);
};

// FLOPs: layers and head, no MTP, no recomputation; MFU against the devices' BF16 peak. causal:
// attention over the keys that a token sees, noncausal: over all.
struct Speeds {
  Figure tflops_causal, tflops_noncausal;  // per device
  Figure mfu_causal, mfu_noncausal;
  Figure tokens_per_day;
};
Speeds speeds_of(const Plan& plan, const StepPrediction& step);

struct PhaseResult {
  std::string name;
  double tokens = 0;
  std::vector<int64_t> sequences;  // per step, of its parts
  std::vector<Duration> steps;     // likewise
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
// draw of it for all, times how much that is off for the plan's own step. progress: called with the
// parts of phases that are done, and all of them.
BudgetResult predict_budget(const Plan& plan,
                            const std::optional<Calibration>& calibration,
                            const StepPrediction& step,
                            const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace rehearse
