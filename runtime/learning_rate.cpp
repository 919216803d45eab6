#include "runtime/learning_rate.h"

#include <cmath>
#include <numbers>

namespace rehearse {

double learning_rate_at(const Training& t, int64_t step) {
  if (step < t.warmup_steps) {
    return t.learning_rate * static_cast<double>(step + 1) / static_cast<double>(t.warmup_steps);
  }
  const int64_t falls_from = t.warmup_steps + t.constant_steps;
  if (step < falls_from) return t.learning_rate;
  if (step >= t.steps - t.tail_steps) return t.tail_learning_rate.value_or(t.final_learning_rate);
  if (step >= t.steps - t.tail_steps - t.hold_steps) return t.final_learning_rate;
  // Steps between the one at the peak, if there was one before, and the one at the end.
  const int64_t before = falls_from > 0 ? 1 : 0;
  const int64_t length = t.steps - t.tail_steps - t.hold_steps - falls_from - 1 + before;
  const double share =
      length == 0 ? 0
                  : static_cast<double>(step - falls_from + before) / static_cast<double>(length);
  return t.final_learning_rate +
         (t.learning_rate - t.final_learning_rate) * 0.5 * (1 + std::cos(std::numbers::pi * share));
}

}  // namespace rehearse
