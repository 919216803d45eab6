#pragma once
// A prediction of a plan's step with its 90% interval, from the spread of its calibration.

#include <optional>

#include "sim/simulate.h"

namespace rehearse {

struct StepPrediction {
  Prediction median;
  Summary summary;
  Duration low, high;  // 90%: equal where nothing tells a spread
  Duration wall;       // that the simulations took
};

// The interval comes from steps simulated with costs drawn from the calibration's spread; of
// clusters of GPUs with balanced experts and folded, whose relative spread is the same. Throws as
// simulate. REQUIRES: options.variation as it is by default.
StepPrediction predict(const Plan& plan,
                       const Program& program,
                       const std::optional<Calibration>& calibration,
                       const SimulateOptions& options = {});

// How a calibration's costs vary, in standard deviations of logarithms.
struct Spread {
  double common = 0;        // of all of them together
  double interpolated = 0;  // of each that was not measured
};
Spread spread_of(const Plan& plan, const Calibration& calibration);

// A plan with what prices it.
struct PricedPlan {
  const Plan& plan;
  const std::optional<Calibration>& calibration;
};
// Standard deviation of the logarithm of b's step over a's. one_calibration: the same prices both,
// so that what a piece of work is off by it is off by in both; else each is off by itself.
double ratio_spread(const PricedPlan& a, const PricedPlan& b, bool one_calibration);

// Tokens that `program` trains on: a step's, or a pair's, which is the forward pass of one
// micro-batch and the backward pass of another.
double tokens_of(const Plan& plan, const Program& program);

}  // namespace rehearse
