#pragma once
// Results as JSON objects and as tables for people; the names are a contract.

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "plan/memory.h"
#include "plan/timeline.h"
#include "runtime/train.h"
#include "sim/simulate.h"

namespace rehearse::cli {

using Json = nlohmann::ordered_json;

// A prediction with its 90% interval.
struct StepPrediction {
  Prediction median;
  Summary summary;
  Duration low, high;
  Duration wall;  // that the simulations took
};
// speed: factor on all calibrated times, where the machine's present speed is known.
StepPrediction predict(const Plan& plan,
                       const Program& program,
                       const std::optional<Calibration>& calibration,
                       bool quiet,
                       double speed = 1);

// A line that says so when the plan's ranks need more memory than their devices have; else empty.
std::string memory_warning(const Plan& plan);

Json to_json(const Breakdown& b);
Json to_json(const RankMemory& m);
Json prediction_json(const Plan& plan, const Program& program, const StepPrediction& p);
std::string prediction_text(const Plan& plan, const Program& program, const StepPrediction& p);

Json training_json(const Plan& plan, const Program& program, const TrainResult& r);
std::string training_text(const Plan& plan, const Program& program, const TrainResult& r);

// Predicted beside measured. Errors are predicted / measured - 1, signed.
struct Comparison {
  Duration predicted_step, measured_step;
  double step_error = 0;
  double op_error_median = 0;  // over ops that take time in both
  double op_error_median_abs = 0;
  Summary predicted, measured;
  struct Kind {
    std::string name;  // "mlp.F"
    int64_t count = 0;
    Duration predicted, measured;  // sums over ops
  };
  std::vector<Kind> kinds;
};
Comparison compare_timelines(const Program& program,
                             const Timeline& predicted,
                             const Timeline& measured);
Json comparison_json(const Comparison& c);
std::string comparison_text(const Comparison& c);

// "+3.1%"
std::string percent(double signed_share);

}  // namespace rehearse::cli
