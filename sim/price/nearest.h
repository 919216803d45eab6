#pragma once
// What is told of one shape from those that were measured: kernels of like shapes take like
// multiples of their ideal times.

#include <array>
#include <cstddef>
#include <functional>
#include <vector>

#include "base/units.h"

namespace rehearse {

// Where a shape stands among others: equal steps in any entry are equally unlike. Unused entries
// are 0.
using ShapePoint = std::array<float, 10>;

// Measured factors (time over ideal time) at points. A point that was not measured has that of the
// eight nearest, in logarithms, each weighted by the inverse square of its distance.
class NearestFactors {
 public:
  void add(const ShapePoint& point, double factor);
  size_t size() const { return points_.size(); }
  using LeftOut = std::function<bool(size_t)>;  // by order of add()
  // REQUIRES: some that are not left out.
  double told(const ShapePoint& here, const LeftOut& left_out = {}) const;

 private:
  std::vector<ShapePoint> points_;
  std::vector<double> logs_;
};

// How full the last of so many rounds is, over all of them: 1 where all are full.
double fullness(double units, double per_round);

// Relative errors of what was told, over what was measured.
struct TableErrors {
  int64_t rows = 0;
  double mean_absolute = 0, percentile_95 = 0, bias = 0;
};
TableErrors errors_of(std::vector<double> errors);

// Told for each row that takes at least `shortest`, from rows of other families alone: families are
// dealt out to `folds` that are left out one at a time.
struct JudgedRow {
  uint64_t family = 0;
  Duration time;
};
TableErrors leave_out_families(
    const std::vector<JudgedRow>& rows,
    Duration shortest,
    const std::function<Duration(size_t row, const NearestFactors::LeftOut&)>& told,
    uint64_t folds = 8);

}  // namespace rehearse
