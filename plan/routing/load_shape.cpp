#include "plan/routing/load_shape.h"

#include <algorithm>
#include <numeric>

namespace rehearse {

LoadShape load_shape(std::vector<double> loads) {
  LoadShape s;
  std::ranges::sort(loads);
  const double sum = std::accumulate(loads.begin(), loads.end(), 0.0);
  const auto n = static_cast<double>(loads.size());
  if (sum == 0) return {.max = 1, .p50 = 1, .p90 = 1, .p95 = 1, .p99 = 1};
  // Of the expert below which so many per cent are, rounded up.
  const auto at = [&](size_t percent) {
    return loads[(loads.size() * percent + 99) / 100 - 1] * n / sum;
  };
  s.max = at(100);
  s.p50 = at(50);
  s.p90 = at(90);
  s.p95 = at(95);
  s.p99 = at(99);
  const auto fed = std::ranges::lower_bound(loads, 0.1 * sum / n);
  s.starving = static_cast<double>(fed - loads.begin()) / n;
  double weighted = 0;
  for (size_t i = 0; i < loads.size(); ++i) weighted += static_cast<double>(i + 1) * loads[i];
  s.gini = 2 * weighted / (n * sum) - (n + 1) / n;
  return s;
}

}  // namespace rehearse
