#pragma once
// Reports of the results that several verbs print.

#include <span>
#include <string_view>

#include "cli/report.h"
#include "plan/program/comparison.h"
#include "plan/program/memory.h"
#include "sim/budget.h"

namespace rehearse {
struct TrainResult;
}

namespace rehearse::cli {

// A step's prediction, called uncalibrated where its timeline tells so; with the speeds that follow
// from it where `speeds` (clusters of GPUs), and with what the whole training takes where that is
// known.
Report prediction_report(const Plan& plan,
                         const Program& program,
                         const StepPrediction& prediction,
                         bool speeds = false,
                         const std::optional<BudgetResult>& budget = {});

Report training_report(const Plan& plan, const Program& program, const TrainResult& result);

// Of a prediction that no calibration priced.
constexpr std::string_view kUncalibrated =
    "the prediction is uncalibrated: made of peak speeds and bandwidths, not of measured times";

Report comparison_report(const Comparison& comparison);

// Which share of a step's costs is measured, interpolated, told; and what of it is not.
void put_sources(Report& report, const Plan& plan, const CostSources& sources);
// Figures of `object` for programs, not shown.
void put_breakdown(Report& object, const Breakdown& b);
void put_memory(Report& object, const RankMemory& m);
// How pipeline ranks (data rank 0) spent the step, and the mean over all ranks.
Report::Table breakdown_table(const Program& program, const Summary& summary);
// What pipeline ranks hold.
Report::Table memory_table(const Plan& plan);
// A line that says so when the plan's ranks need more memory than their devices have; else empty.
std::string memory_warning(const Plan& plan);

}  // namespace rehearse::cli
