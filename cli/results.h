#pragma once
// Results as JSON objects and as tables for people; the names are a contract.

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "plan/program/memory.h"
#include "plan/program/timeline.h"
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
StepPrediction predict(const Plan& plan,
                       const Program& program,
                       const std::optional<Calibration>& calibration,
                       bool quiet,
                       SimulateOptions options = {});

bool fits_memory(const Plan& plan);
// A line that says so when the plan's ranks need more memory than their devices have; else empty.
std::string memory_warning(const Plan& plan);

Json to_json(const Breakdown& b);
Json to_json(const RankMemory& m);
Json prediction_json(const Plan& plan, const Program& program, const StepPrediction& p);
std::string prediction_text(const Plan& plan, const Program& program, const StepPrediction& p);

Json training_json(const Plan& plan, const Program& program, const TrainResult& r);
std::string training_text(const Plan& plan, const Program& program, const TrainResult& r);

// "+3.1%"
std::string percent(double signed_share);

}  // namespace rehearse::cli
