#pragma once
// simulate: gives each op of a plan's Program a cost and moves a clock.

#include <functional>
#include <optional>
#include <set>
#include <string>

#include "plan/plan.h"
#include "plan/timeline.h"
#include "sim/calibration.h"

namespace rehearse {

// How the costs of one simulation differ from the calibration's medians.
struct CostVariation {
  double common = 1;        // factor on every measured time
  double interpolated = 0;  // standard deviation, in logarithms, of each interpolated time
  uint64_t seed = 0;        // of those
};

// Where the costs of a prediction came from.
struct CostSources {
  int64_t measured = 0;      // kernel calls that the calibration has timed at their shape
  int64_t interpolated = 0;  // calls priced from the calibration's neighbouring shapes
  int64_t roofline = 0;      // calls priced by flops and bytes, since nothing was measured
  int64_t stated = 0;        // calls of an emulated device, whose roofline is what they take
  std::set<std::string> unmeasured;  // those calls
};

struct Prediction {
  Timeline timeline;
  CostSources sources;
};

// One step of `plan`'s `program`, every rank. calibration: none prices every op by its roofline.
// progress: called now and then. Throws ScheduleError, naming every stuck rank, when the Program
// cannot run to its end.
Prediction simulate(const Plan& plan,
                    const Program& program,
                    const std::optional<Calibration>& calibration,
                    const CostVariation& variation = {},
                    const std::function<void(int64_t ops_done)>& progress = {});

// Costs given by hand, ops costing nothing else: the setting of the bubble formulas, in which a
// chunk's F, Bi and W each take `unit`, an overlapped pair three, and communication nothing.
Timeline simulate_unit_costs(const Program& program, Duration unit);

}  // namespace rehearse
