#pragma once
// Measuring a calibration on this machine, and judging whether one that was read belongs to it.

#include <span>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "sim/calibration.h"

namespace rehearse::cli {

struct MeasureOptions {
  // Whether to time a grid of shapes, from which those of any small model are interpolated, beside
  // those that the plans call.
  bool grid = true;
  Duration budget_per_kernel;  // per condition and round
  int64_t rounds = 3;
  bool quiet = false;
};

// Times kernels, those that an op of a plan calls and the experts' at several row counts among
// them, and the runtime's overheads. No step is run.
Calibration measure(std::span<const Plan> plans, const MeasureOptions& options);

// What speaks against using `calibration` for a plan on this machine's cores: another processor,
// another build or other kernels than this program's. Empty when nothing does,
// or when the plan's cluster is not this machine.
std::vector<std::string> calibration_doubts(const Calibration& calibration, const Plan& plan);

}  // namespace rehearse::cli
