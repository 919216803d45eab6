#pragma once
// How many micro-batches a step of `train` has: a batch may grow over the first steps (DeepSeek-V3
// technical report, section 4.2: 3072 to 15360 sequences over 469B tokens).

#include <vector>

#include "plan/plan.h"

namespace rehearse {

class BatchRamp {
 public:
  // From training.ramp_from sequences, linearly in steps or in tokens, to the plan's own; always as
  // many micro-batches as the schedule allows, the largest number that is not above the line, or
  // the smallest that it allows at all.
  BatchRamp(const Training& training, const Layout& layout);

  // Of step `step`, from 0.
  int64_t micro_batches_at(int64_t step) const;
  // The first steps that together train on so many tokens. At most INT64_MAX / 2.
  int64_t steps_for(double tokens) const;

 private:
  struct Part {
    int64_t first_step = 0, micro_batches = 0;
  };
  std::vector<Part> parts_;
  double tokens_of_one_ = 0;  // of one micro-batch of every data rank
};

}  // namespace rehearse
