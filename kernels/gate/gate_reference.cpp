#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/gate/gate.h"

namespace rehearse::kernels {
namespace {

// Indices of `values` in descending order, lower index first among equals.
std::vector<int32_t> descending(const std::vector<double>& values) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  return order;
}

std::vector<int32_t> choose(const GateShape& s, const double* scores, const double* bias) {
  std::vector<double> choice(scores, scores + s.experts);
  if (bias != nullptr) {
    for (int64_t e = 0; e < s.experts; ++e) choice[static_cast<size_t>(e)] += bias[e];
  }
  const int64_t size = s.experts / s.groups;
  std::vector<double> group_scores;
  for (int64_t g = 0; g < s.groups; ++g) {
    std::vector<double> group(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::sort(group.rbegin(), group.rend());
    group_scores.push_back(bias != nullptr && size > 1 ? group[0] + group[1] : group[0]);
  }
  const std::vector<int32_t> groups = descending(group_scores);
  for (int64_t i = s.kept_groups; i < s.groups; ++i) {
    const int64_t g = groups[static_cast<size_t>(i)];
    std::fill(choice.begin() + g * size,
              choice.begin() + (g + 1) * size,
              -std::numeric_limits<double>::infinity());
  }
  std::vector<int32_t> order = descending(choice);
  order.resize(static_cast<size_t>(s.active));
  return order;
}

}  // namespace

void gate_reference(const GateShape& s,
                    const double* logits,
                    const double* bias,
                    bool given,
                    double* scores,
                    int32_t* chosen,
                    double* weights) {
  for (int64_t t = 0; t < s.tokens; ++t) {
    const double* x = logits + t * s.experts;
    double* y = scores + t * s.experts;
    double denominator = 0;
    for (int64_t e = 0; e < s.experts; ++e) denominator += std::exp(x[e]);
    for (int64_t e = 0; e < s.experts; ++e) {
      y[e] = s.sigmoid ? 1 / (1 + std::exp(-x[e])) : std::exp(x[e]) / denominator;
    }
    int32_t* picks = chosen + t * s.active;
    if (!given) {
      const std::vector<int32_t> best = choose(s, y, bias);
      std::copy(best.begin(), best.end(), picks);
    }
    double sum = 0;
    for (int64_t k = 0; k < s.active; ++k) sum += y[picks[k]];
    for (int64_t k = 0; k < s.active; ++k) {
      weights[t * s.active + k] = s.scaling * y[picks[k]] / (s.normalize ? sum : 1);
    }
  }
}

}  // namespace rehearse::kernels
