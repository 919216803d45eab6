#include "runtime/median_step.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace rehearse {
namespace {

Duration distance(Duration a, Duration b) {
  return a < b ? b - a : a - b;
}

}  // namespace

void MedianStep::add(Duration step, Timeline timeline) {
  if (upper_.empty() || step >= upper_.top()) {
    upper_.push(step);
  } else {
    lower_.push(step);
  }
  if (lower_.size() > upper_.size()) {
    upper_.push(lower_.top());
    lower_.pop();
  } else if (upper_.size() > lower_.size() + 1) {
    lower_.push(upper_.top());
    upper_.pop();
  }
  const auto place = std::upper_bound(
      kept_.begin(), kept_.end(), step, [](Duration d, const Kept& k) { return d < k.step; });
  kept_.insert(place, {.step = step, .timeline = std::move(timeline)});
  if (kept_.size() > bound_) drop_one();
}

size_t MedianStep::nearest_index() const {
  const auto best = std::min_element(kept_.begin(), kept_.end(), [&](const Kept& a, const Kept& b) {
    return distance(a.step, median()) < distance(b.step, median());
  });
  return static_cast<size_t>(best - kept_.begin());
}

void MedianStep::drop_one() {
  // The outermost two stay unless nothing lies between them: they tell how far the steps range.
  const size_t nearest = nearest_index();
  size_t victim = nearest == 0 ? kept_.size() - 1 : 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 1; i + 1 < kept_.size(); ++i) {
    if (i == nearest) continue;
    const Duration gap = kept_[i + 1].step - kept_[i - 1].step;
    const Duration away = distance(kept_[i].step, median());
    // `away` of 0 is another step of the median's time beside the nearest: it adds nothing.
    const double cost = away == Duration() ? 0 : gap / away;
    if (cost < least) {
      least = cost;
      victim = i;
    }
  }
  kept_.erase(kept_.begin() + static_cast<std::ptrdiff_t>(victim));
}

}  // namespace rehearse
