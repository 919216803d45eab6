#pragma once
// Predictions beside measurements of several plans.

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/machine_load.h"
#include "cli/measure.h"
#include "cli/report.h"
#include "plan/program/waking.h"

namespace rehearse::cli {

struct Validation {
  std::string plan;  // name of its file
  std::string what;  // "PP2 EP2 dualpipe, 8 x 256 tokens"
  struct Run {
    double speed = 1;    // the machine's time over the calibration's, just before
    Duration predicted;  // at that speed, before the run
    Duration measured;   // the run's median step
    // What disturbed it; none: not told.
    std::optional<MachineLoad> load;
    std::optional<Waking> waking;
  };
  std::vector<Run> runs;
  double low = 1, high = 1;  // 90% interval of a prediction over the prediction

  Duration predicted() const;  // medians over runs
  Duration measured() const;
  double error() const { return predicted() / measured() - 1; }  // signed
  // Of all runs together; none where one does not tell.
  std::optional<MachineLoad> load() const;
  // Of a run in the middle of what lateness made of their steps.
  const Run& run_of_median_lateness() const;
  bool inside() const {
    const double ratio = measured() / predicted();
    return low <= ratio && ratio <= high;
  }
};

// "PP2 DP1 EP1 dualpipe, 8 x 512, tiny-v3"
std::string describe(const Plan& plan);

struct ValidateOptions {
  std::string text;
  int64_t runs = 5;
  int64_t steps = 8;  // of each run
  bool quiet = false;
  std::string label;  // of the progress; none: the plan's name
};

// Predicts a step of the plan, then runs it, several times over. Before each prediction the
// calibration's times are scaled to the machine's present speed.
Validation validate_plan(const Plan& plan,
                         const Calibration& calibration,
                         SpeedCheck& speed,
                         const ValidateOptions& options);

// What disturbed them, a line each; empty where nothing did.
std::vector<std::string> warnings_of(std::span<const Validation> results);

// further: warnings that come before those of the results.
Report validation_report(std::span<const Validation> results,
                         const std::vector<std::string>& further = {});

}  // namespace rehearse::cli
