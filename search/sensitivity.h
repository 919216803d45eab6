#pragma once
// How a step's time hangs on what it is made of: what one per cent more of each knob changes, and
// what other hardware would.

#include <optional>
#include <string>
#include <vector>

#include "search/search.h"

namespace rehearse {

struct Sensitivity {
  std::string knob;
  // d log(step) / d log(knob): -0.5 is half a per cent shorter for one per cent more. Nothing where
  // the layout has no such thing.
  std::optional<double> slope;
  std::string note;  // how it was asked, or why not
};
// Of InfiniBand's and NVLink's bandwidth, latency, communication SMs, speed of products, of
// attention and of memory-bound work, balance (load of the fullest rank's experts over the mean),
// micro-batch size, and one slow device. Each from a simulation with the knob turned by a tenth, or
// (balance, micro-batch) as the note says.
std::vector<Sensitivity> sensitivities(const Plan& plan,
                                       const std::optional<Calibration>& calibration);

struct WhatIf {
  std::string what;
  double step = 0;  // seconds
};
// What the report asks hardware for (section 3.5): communication that holds no SMs, and scaling
// inside the tensor cores, so that nothing is cast apart.
std::vector<WhatIf> what_ifs(const Plan& plan, const std::optional<Calibration>& calibration);

// The step, its data ranks folded; of very many micro-batches told from two shorter ones.
double step_of(const Plan& plan, const std::optional<Calibration>& calibration);

// Parts of two steps side by side: seconds of a rank's mean, and how much of the difference each
// is.
struct PartDifference {
  std::string part;
  double a = 0, b = 0;
};
std::vector<PartDifference> compare_steps(const Plan& a,
                                          const Plan& b,
                                          const std::optional<Calibration>& of_a,
                                          const std::optional<Calibration>& of_b);

}  // namespace rehearse
