#pragma once
// The ops that end a step: gradients and weights across the replicas of a stage (ZeRO-0
// or ZeRO-1), the gradient's norm, AdamW, and the experts' biases.

#include "plan/program/program.h"
#include "runtime/communicators/lanes.h"
#include "runtime/step/rank_state.h"
#include "runtime/step/step_settings.h"

namespace rehearse {

// One such op: what it acts on and for whom.
struct StepEnd {
  const Plan& plan;
  const Program& program;
  LaneCommunicator& lanes;
  const StepSettings& settings;
  RankState& rank;
  int32_t data_rank = 0;
};

// The shard of an arena that the optimizer of the rank at `place` owns, which holds the stage.
Shard owned_shard(const Program& program, Place place, const Stage& stage, Arena arena);

// The first weights of a stage on the rank at `place`, masters of its optimizer's shard, and what
// that one's ops act on.
void start_weights(const Plan& plan,
                   const PrecisionRecipe& recipe,
                   const Program& program,
                   Place place,
                   const Compute& compute,
                   Stage& stage);

// The part of an arena whose masters, moments and averages that rank holds: its shard, or without
// ZeRO all of it.
Shard optimizer_shard(const Program& program, Place place, const Stage& stage, Arena arena);

// grad_reduce, grad_norm, optimizer, param_gather or bias_update.
bool ends_step(OpKind kind);

// Enqueues `op` of the rank. ready: as in Device::enqueue.
void end_step(const StepEnd& s, const Op& op, const Ready& ready);

// When a training step has ended: experts' biases follow from its loads, where its status allows
// it. Nothing else is left to do: the optimizer has looked at the status itself.
void settle(const Plan& plan, RankState& rank);

}  // namespace rehearse
