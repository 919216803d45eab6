#pragma once
// Measuring a calibration on this machine, and judging whether one that was read belongs to it.

#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "runtime/kernel_bench.h"
#include "sim/price/calibration.h"

namespace rehearse::cli {

struct MeasureOptions {
  // Whether to time a grid of shapes, from which those of any small model are interpolated, beside
  // those that the plans call.
  bool grid = true;
  Duration budget_per_kernel = Duration::microseconds(300);  // per condition and round
  int64_t rounds = 6;                                        // at most
  // Rounds end when the next one would go beyond it; two are made whatever they take. None: no end.
  std::optional<Duration> limit;
  bool quiet = false;
};

// Times kernels, those that an op of a plan calls and the experts' at several row counts among
// them, and the runtime's overheads. No step is run.
Calibration measure(std::span<const Plan> plans, const MeasureOptions& options);

// How this machine's kernels run now, beside a calibration of it.
class SpeedCheck {
 public:
  explicit SpeedCheck(const Calibration& calibration);  // must outlive it

  struct Result {
    int64_t calls = 0;         // of the calibration that were timed again
    double ratio = 1;          // time now over the calibration's: median
    double low = 1, high = 1;  // 10th and 90th percentile
  };
  // Times the sample again, which takes about a second.
  Result now();
  // The ratio of the last minute or so: one look scatters by some percent itself, so this is the
  // median of the latest looks, taking another one (at first several).
  double lately();

 private:
  const Calibration& calibration_;
  KernelBench bench_;
  std::vector<KernelCall> sample_;
  std::deque<double> looks_;
};

// What speaks against using `calibration` for a plan on this machine's cores: another processor,
// another build or other kernels than this program's. Empty when nothing does,
// or when the plan's cluster is not this machine.
std::vector<std::string> calibration_doubts(const Calibration& calibration, const Plan& plan);

}  // namespace rehearse::cli
