#include "sim/price/nearest.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/errors.h"
#include "base/random.h"

namespace rehearse {

void NearestFactors::add(const ShapePoint& point, double factor) {
  points_.push_back(point);
  logs_.push_back(std::log(factor));
}

// By the first entry, so that those far off in it alone need not be looked at.
void NearestFactors::finish() {
  order_.resize(points_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
  std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
    return points_[a][0] < points_[b][0];
  });
  sorted_.clear();
  for (const size_t i : order_) sorted_.push_back(points_[i]);
}

double NearestFactors::told(const ShapePoint& here, const LeftOut& left_out) const {
  constexpr size_t kNeighbours = 8;
  constexpr double kNear = 0.05;                  // added to squared distances
  std::vector<std::pair<float, size_t>> nearest;  // a heap, the farthest of them first
  // Whether more may be found behind `at`, in this direction.
  const auto look = [&](size_t at) {
    float distance = 0;
    const ShapePoint& there = sorted_[at];
    const float first = there[0] - here[0];
    const bool full = nearest.size() == kNeighbours;
    if (full && first * first > nearest.front().first) return false;
    for (size_t j = 0; j < here.size(); ++j) {
      const float apart = there[j] - here[j];
      distance += apart * apart;
    }
    const std::pair<float, size_t> found{distance, order_[at]};
    if (full && found >= nearest.front()) return true;
    if (left_out && left_out(order_[at])) return true;
    if (full) {
      std::pop_heap(nearest.begin(), nearest.end());
      nearest.pop_back();
    }
    nearest.push_back(found);
    std::push_heap(nearest.begin(), nearest.end());
    return true;
  };
  const auto middle =
      static_cast<size_t>(std::lower_bound(sorted_.begin(),
                                           sorted_.end(),
                                           here[0],
                                           [](const ShapePoint& p, float x) { return p[0] < x; }) -
                          sorted_.begin());
  for (size_t at = middle; at < sorted_.size() && look(at); ++at) {
  }
  for (size_t at = middle; at > 0 && look(at - 1); --at) {
  }
  // Sums in one order, whatever the heap's.
  std::sort(nearest.begin(), nearest.end());
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

std::vector<uint64_t> dealt_out(std::vector<uint64_t> families, uint64_t folds) {
  const auto fold_of = [&](uint64_t family) { return split_mix(family) % folds; };
  const bool several = std::ranges::any_of(
      families, [&](uint64_t family) { return fold_of(family) != fold_of(families.front()); });
  if (several) std::ranges::transform(families, families.begin(), fold_of);
  return families;
}

}  // namespace rehearse
