#pragma once
// How uneven loads of experts are: for logs of training, replay and synthetic routing alike.

#include <vector>

namespace rehearse {

// How numbers of tokens differ.
struct LoadShape {
  double max = 0, p50 = 0, p90 = 0, p95 = 0, p99 = 0;  // over the mean
  double gini = 0;                                     // 0: all alike, 1: one has all
  double starving = 0;  // share of those with under a tenth of the mean
};
LoadShape load_shape(std::vector<double> loads);

}  // namespace rehearse
