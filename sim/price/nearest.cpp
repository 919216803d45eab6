#include "sim/price/nearest.h"

#include <algorithm>
#include <cmath>

#include "base/errors.h"
#include "base/random.h"

namespace rehearse {

void NearestFactors::add(const ShapePoint& point, double factor) {
  points_.push_back(point);
  logs_.push_back(std::log(factor));
}

double NearestFactors::told(const ShapePoint& here, const LeftOut& left_out) const {
  constexpr size_t kNeighbours = 8;
  constexpr double kNear = 0.05;                  // added to squared distances
  std::vector<std::pair<float, size_t>> nearest;  // a heap, the farthest of them first
  for (size_t i = 0; i < points_.size(); ++i) {
    float distance = 0;
    for (size_t j = 0; j < here.size(); ++j) {
      const float apart = points_[i][j] - here[j];
      distance += apart * apart;
    }
    if (nearest.size() == kNeighbours && distance >= nearest.front().first) continue;
    if (left_out && left_out(i)) continue;
    if (nearest.size() == kNeighbours) {
      std::pop_heap(nearest.begin(), nearest.end());
      nearest.pop_back();
    }
    nearest.emplace_back(distance, i);
    std::push_heap(nearest.begin(), nearest.end());
  }
  CHECK(!nearest.empty()) << "all that was measured is left out";
  double sum = 0, weights = 0;
  for (const auto& [distance, i] : nearest) {
    const double weight = 1 / (distance + kNear);
    sum += weight * logs_[i];
    weights += weight;
  }
  return std::exp(sum / weights);
}

double fullness(double units, double per_round) {
  return units / per_round / std::ceil(units / per_round);
}

TableErrors errors_of(std::vector<double> errors) {
  TableErrors e{.rows = static_cast<int64_t>(errors.size())};
  if (errors.empty()) return e;
  for (double& error : errors) {
    e.bias += error / static_cast<double>(errors.size());
    error = std::abs(error);
    e.mean_absolute += error / static_cast<double>(errors.size());
  }
  const auto at = static_cast<ptrdiff_t>(0.95 * static_cast<double>(errors.size() - 1));
  std::nth_element(errors.begin(), errors.begin() + at, errors.end());
  e.percentile_95 = errors[static_cast<size_t>(at)];
  return e;
}

uint64_t fold_of(uint64_t family, uint64_t folds) {
  return split_mix(family) % folds;
}

}  // namespace rehearse
