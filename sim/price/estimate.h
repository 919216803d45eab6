#pragma once
// What a calibration of a host's kernels says about any call: times of shapes between the measured
// ones.

#include <optional>
#include <vector>

#include "sim/price/calibration.h"

namespace rehearse {

// Shapes that cover what plans of small models need, whatever their widths: every combination of a
// few values per entry of a kernel's shape.
std::vector<KernelCall> grid_calls();

struct KernelEstimate {
  KernelTime time;
  bool measured = false;  // at this very shape
};
// The time of a call from measured ones of its kernel: itself; between neighbours that differ in
// rows alone; within the grid, linear in every entry at once (which is exact for costs like
// m n k + m k + n k + a constant; attention's time per token is taken, its cost being quadratic in
// the length); in proportion beyond what was measured. Nothing when there is nothing to go by.
std::optional<KernelEstimate> estimate(const Calibration& calibration, const KernelCall& call);

}  // namespace rehearse
