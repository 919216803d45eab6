#pragma once
// The ops that end a step on the CPU: gradients and weights across the replicas of a stage (ZeRO-0
// or ZeRO-1), the gradient's norm, AdamW, and the experts' biases.

#include "runtime/communicators/communicator.h"
#include "runtime/devices/cpu/cpu_rank.h"
#include "runtime/devices/device.h"

namespace rehearse {

// One such op: what it acts on and for whom.
struct StepEnd {
  const Plan& plan;
  const Program& program;
  Communicator& communicator;
  const StepSettings& settings;
  CpuRank& rank;
  int32_t data_rank = 0;
};

// The shard of an arena that the optimizer of the rank at `place` owns, which holds the stage.
Shard owned_shard(const Program& program, Place place, const Stage& stage, Arena arena);

// The first weights of a stage on the rank at `place`, and masters of its optimizer's shard.
void start_weights(const Plan& plan,
                   const PrecisionRecipe& recipe,
                   const Program& program,
                   Place place,
                   Stage& stage);

// The part of an arena whose masters, moments and averages that rank holds: its shard, or without
// ZeRO all of it.
Shard optimizer_shard(const Program& program, Place place, const Stage& stage, Arena arena);

// grad_reduce, grad_norm, optimizer, param_gather or bias_update.
bool ends_step(OpKind kind);

// Runs `op` of the rank to its end. ready: as in Device::run_op.
void end_step(const StepEnd& s, const Op& op, const Ready& ready);

}  // namespace rehearse
