#pragma once
// What a pipeline rank must hold, by kind.

#include "base/units.h"
#include "plan/plan.h"

namespace rehearse {

struct RankMemory {
  Bytes parameters;   // weights as computed with
  Bytes gradients;    // FP32
  Bytes optimizer;    // moments, and FP32 master weights where those are not the parameters
  Bytes activations;  // held from forward to weight gradients, at the schedule's peak
  Bytes total() const { return parameters + gradients + optimizer + activations; }
};

// Weights of one stage, in elements.
struct StageWeights {
  int64_t dense = 0;   // held by every rank of the stage
  int64_t expert = 0;  // one rank's share of the routed experts
};
StageWeights stage_weights(const Plan& plan, int64_t stage);
StageWeights layer_weights(const Plan& plan, int64_t layer);
// Of those, what is of no layer: embedding, head, MTP modules' projections.
int64_t stage_ends(const Plan& plan, int64_t stage);

// Of pipeline rank `pp_rank`, any data rank.
RankMemory rank_memory(const Plan& plan, int64_t pp_rank);

// What the most loaded device must hold: on a CPU node all of its ranks share the memory.
Bytes device_need(const Plan& plan);
// Whether that is there.
bool fits_memory(const Plan& plan);

}  // namespace rehearse
