#pragma once
// Statistics of measurements.

#include <algorithm>
#include <cmath>
#include <vector>

namespace rehearse {

// The middle value, or the mean of the two middle ones; 0 of nothing.
inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

// Of a standard normal, by bisection of the error function.
inline double normal_quantile(double probability) {
  double low = -8;
  double high = 8;
  while (high - low > 1e-9) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < probability ? low : high) = middle;
  }
  return low;
}

// Spearman's: of ranks, equal values sharing theirs; 0 where one of both does not vary.
inline double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto ranks = [](const std::vector<double>& values) {
    std::vector<size_t> order(values.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(
        order.begin(), order.end(), [&](size_t x, size_t y) { return values[x] < values[y]; });
    std::vector<double> of(values.size());
    for (size_t i = 0; i < order.size();) {
      size_t end = i;
      while (end < order.size() && values[order[end]] == values[order[i]]) ++end;
      for (size_t j = i; j < end; ++j) of[order[j]] = static_cast<double>(i + end - 1) / 2;
      i = end;
    }
    return of;
  };
  const std::vector<double> x = ranks(a);
  const std::vector<double> y = ranks(b);
  const double mean = (static_cast<double>(x.size()) - 1) / 2;
  double xy = 0;
  double xx = 0;
  double yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    xy += (x[i] - mean) * (y[i] - mean);
    xx += (x[i] - mean) * (x[i] - mean);
    yy += (y[i] - mean) * (y[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : 0;
}

}  // namespace rehearse
