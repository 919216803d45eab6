#pragma once
// What a step is given.

#include <cstdint>

namespace rehearse {

struct StepSettings {
  int64_t step = 0;           // from 0
  int64_t micro_batches = 0;  // per data rank, at most the plan's
  double learning_rate = 0;
  bool validation = false;  // forward only: inputs are validation windows from `first_window` on
  int64_t first_window = 0;
  // Gradients alone: weights, moments and biases stay, gradients are not clipped and stay too, and
  // logits are kept.
  bool probe = false;
};

}  // namespace rehearse
