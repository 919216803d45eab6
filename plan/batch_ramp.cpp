#include "plan/batch_ramp.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "plan/schedules.h"

namespace rehearse {
namespace {

constexpr double kMostSteps = static_cast<double>(std::numeric_limits<int64_t>::max() / 2);

int64_t rounded_up(double steps) {
  return static_cast<int64_t>(std::min(kMostSteps, std::ceil(steps - 1e-9)));
}

}  // namespace

BatchRamp::BatchRamp(const Training& t, const Layout& l)
    : tokens_of_one_(static_cast<double>(l.dp * t.micro_batch_size) *
                     static_cast<double>(t.sequence_length)) {
  const int64_t full = t.micro_batches;
  const auto allowed = [&](int64_t n) {
    return n == full || facts_of(l.schedule).check_micro_batches(l.pp, n).empty();
  };
  int64_t from = full;
  if (t.ramp_from > 0) {
    from = std::clamp<int64_t>(t.ramp_from / (l.dp * t.micro_batch_size), 1, full);
    int64_t below = from;
    while (below > 1 && !allowed(below)) --below;
    while (!allowed(from)) ++from;
    if (allowed(below)) from = below;
  }
  parts_.push_back({0, from});
  if (from == full) return;
  // Where the line crosses the next number of micro-batches, in steps or in tokens.
  const double line_from =
      static_cast<double>(t.ramp_from) / static_cast<double>(l.dp * t.micro_batch_size);
  const double length = t.ramp_tokens.value_or(static_cast<double>(t.ramp_steps));
  const double slope = length / (static_cast<double>(full) - line_from);
  double tokens = 0;  // before the last part
  for (int64_t n = from + 1; n <= full; ++n) {
    if (!allowed(n)) continue;
    const double crossed = std::max(0.0, (static_cast<double>(n) - line_from) * slope);
    Part& last = parts_.back();
    int64_t step = 0;
    if (t.ramp_tokens) {
      const double per_step = tokens_of_one_ * static_cast<double>(last.micro_batches);
      step = last.first_step + rounded_up(std::max(0.0, crossed - tokens) / per_step);
      tokens += per_step * static_cast<double>(step - last.first_step);
    } else {
      step = rounded_up(crossed);
    }
    if (step == last.first_step) {
      last.micro_batches = n;
    } else {
      parts_.push_back({step, n});
    }
  }
}

int64_t BatchRamp::micro_batches_at(int64_t step) const {
  const auto after =
      std::upper_bound(parts_.begin(), parts_.end(), step, [](int64_t s, const Part& p) {
        return s < p.first_step;
      });
  return std::prev(after)->micro_batches;
}

int64_t BatchRamp::steps_for(double tokens) const {
  double done = 0;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const double per_step = tokens_of_one_ * static_cast<double>(parts_[i].micro_batches);
    const int64_t steps = rounded_up((tokens - done) / per_step);
    if (i + 1 == parts_.size() || parts_[i].first_step + steps <= parts_[i + 1].first_step) {
      return parts_[i].first_step + steps;
    }
    done += per_step * static_cast<double>(parts_[i + 1].first_step - parts_[i].first_step);
  }
  return 0;
}

}  // namespace rehearse
