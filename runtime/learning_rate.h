#pragma once
// The learning rate of a step.

#include "plan/plan.h"

namespace rehearse {

// Of step `step`, from 0, of training.steps: linear warm-up, whose last step is the first at the
// peak; constant_steps more at the peak; a half cosine, whose last step is at final_learning_rate;
// hold_steps more there; tail_steps at tail_learning_rate. Where those leave no step to the cosine,
// there is none.
double learning_rate_at(const Training& t, int64_t step);

}  // namespace rehearse
