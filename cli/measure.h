#pragma once
// Measuring the calibration that a plan needs on this machine.

#include "plan/plan.h"
#include "sim/calibration.h"

namespace rehearse::cli {

struct MeasureOptions {
  Duration budget_per_kernel;  // and condition
  bool quiet = false;
};

// Times every kernel that an op of the plan calls, those of the experts at several row counts.
Calibration measure(const Plan& plan, const Program& program, const MeasureOptions& options);

}  // namespace rehearse::cli
