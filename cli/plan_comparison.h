#pragma once
// Two plans side by side: steps and memory part by part, and every setting that differs.

#include <string>
#include <vector>

#include "cli/report.h"
#include "sim/predict.h"

namespace rehearse::cli {

struct PlanDifference {
  std::string setting;  // the plan's key; of mappings but layout and training: "mapping.key"
  std::string a, b;     // as files have it, or what they mean without it
};
// Every key of plan_keys() by which two plans differ, in that order; and "gpus". Models and
// clusters differ where their files do. None: the plans are the same but for names of files.
std::vector<PlanDifference> plan_differences(const Plan& a, const Plan& b);

// one_calibration: the same prices both, whose errors then go together.
Report two_plans_report(const PricedPlan& a, const PricedPlan& b, bool one_calibration);

}  // namespace rehearse::cli
