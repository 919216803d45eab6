#include "runtime/step/step_end.h"

#include <algorithm>

#include "runtime/communicators/keys.h"

namespace rehearse {
namespace {

int64_t rank_of(const StepEnd& s, const Op& op) {
  return s.program.global_rank({op.pp_rank, s.data_rank});
}

std::vector<int64_t> ranks_of(const StepEnd& s, const Op& op) {
  std::vector<int64_t> ranks;
  for (const Place& p : s.program.members(op, s.data_rank)) {
    ranks.push_back(s.program.global_rank(p));
  }
  return ranks;
}

Stage& stage_of(const StepEnd& s, const Op& op) {
  return s.rank.copies[static_cast<size_t>(op.direction)];
}

Arena arena_of(const Op& op) {
  return op.group == Group::kExpertReplicas ? Arena::kExpert : Arena::kDense;
}

void reduce_gradients(const StepEnd& s, const Op& op, const Ready& ready) {
  const std::vector<int64_t> members = ranks_of(s, op);
  const Collective c{members, key_of(op)};
  if (op.group == Group::kEmbeddings) {
    Stage& stage = stage_of(s, op);
    s.lanes.all_reduce(c, rank_of(s, op), stage.gradients.array(*stage.where.embedding), ready);
    return;
  }
  const Array gradients = stage_of(s, op).gradients.arena(arena_of(op)).array();
  if (s.plan.layout.zero_stage == 0) {
    s.lanes.all_reduce(c, rank_of(s, op), gradients, ready);
  } else {
    s.lanes.reduce_scatter(c, rank_of(s, op), gradients, ready);
  }
}

void gather_weights(const StepEnd& s, const Op& op, const Ready& ready) {
  const std::vector<int64_t> members = ranks_of(s, op);
  ParameterValues& weights = stage_of(s, op).weights;
  s.lanes.all_gather(
      {members, key_of(op)}, rank_of(s, op), weights.arena(arena_of(op)).array(), ready);
  weights.encode_operands(s.rank.compute, arena_of(op));
}

void norm_gradients(const StepEnd& s, const Op& op, const Ready& ready) {
  // Every parameter stands in exactly one rank's shard, so each is counted once. The op's time
  // begins here, with its own work, and so includes the wait for the slowest rank's.
  ready();
  std::vector<ConstArray> gradients, losses;
  for (Stage& stage : s.rank.copies) {
    for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
      for (const Shard& part : stage.counted[static_cast<size_t>(arena)]) {
        gradients.push_back(
            stage.gradients.arena(arena).array(part.begin, part.end - part.begin, 1));
      }
    }
    losses.push_back(stage.losses.array());
  }
  const Array status = s.rank.status.array();
  s.rank.compute.step_status(gradients, s.rank.overflowed.array(), losses, status);
  const std::vector<int64_t> members = ranks_of(s, op);
  s.lanes.sum({members, key_of(op)}, rank_of(s, op), status, [] {});
}

void optimize(const StepEnd& s, const Op& op) {
  const Training& t = s.plan.training;
  const Compute& compute = s.rank.compute;
  Stage& stage = stage_of(s, op);
  for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
    const auto a = static_cast<size_t>(arena);
    const Shard shard = optimizer_shard(s.program, {op.pp_rank, s.data_rank}, stage, arena);
    const int64_t size = shard.end - shard.begin;
    stage.m[a].resize(size);
    stage.v[a].resize(size);
    FlatValues& gradients = stage.gradients.arena(arena);
    const Array weights = stage.weights.arena(arena).array(shard.begin, size, 1);
    const bool masters = weights.extent.type != DType::kFp32;
    const Array own = masters ? stage.master[a].array() : weights;
    if (t.ema > 0 && stage.average[a].empty()) {
      stage.average[a].resize(size);
      compute.copy(own, stage.average[a].array());
    }
    compute.adamw({.settings = {.learning_rate = s.settings.learning_rate,
                                .beta1 = t.beta1,
                                .beta2 = t.beta2,
                                .eps = t.adam_eps,
                                .step = s.settings.step + 1},
                   .clip = t.gradient_clip,
                   .ema = t.ema,
                   .segments = stage.segments[a],
                   .status = s.rank.status.array(),
                   .gradients = gradients.array(shard.begin, size, 1),
                   .weights = own,
                   .rounded = masters ? weights : Array(),
                   .m = stage.m[a].array(),
                   .v = stage.v[a].array(),
                   .average = stage.average[a].array()});
    compute.clear(gradients.array());
    // Of an arena in shards when they are together again.
    if (size == stage.where.arena_size(arena)) stage.weights.encode_operands(compute, arena);
  }
}

// The loads of the whole batch, from which biases follow when the step has ended (settle).
void sum_loads(const StepEnd& s, const Op& op, const Ready& ready) {
  Stage& stage = stage_of(s, op);
  s.rank.compute.copy(stage.expert_load.array(), stage.total_load.array());
  const std::vector<int64_t> members = ranks_of(s, op);
  s.lanes.sum({members, key_of(op)}, rank_of(s, op), stage.total_load.array(), ready);
}

// Where the optimizer's parameters stand in its shard, and what of the gradient counts here.
void cut_segments(const Plan& plan, const Program& program, Place place, Stage& stage) {
  for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
    const auto a = static_cast<size_t>(arena);
    const Shard shard = optimizer_shard(program, place, stage, arena);
    for (const Parameter& p : stage.where.list) {
      const int64_t begin = std::max(p.offset, shard.begin);
      const int64_t end = std::min(p.offset + p.size(), shard.end);
      if (p.arena != arena || begin >= end) continue;
      stage.segments[a].push_back({.begin = begin - shard.begin,
                                   .end = end - shard.begin,
                                   .weight_decay = p.is_gain ? 0 : plan.training.weight_decay});
    }
    const Shard owned = owned_shard(program, place, stage, arena);
    // A copy of the embedding's table counts where the other one stands.
    Shard copy{owned.end, owned.end};
    if (stage.where.embedding_is_copy && arena == Arena::kDense) {
      const Parameter& p = stage.where.list[static_cast<size_t>(*stage.where.embedding)];
      copy = {std::clamp(p.offset, owned.begin, owned.end),
              std::clamp(p.offset + p.size(), owned.begin, owned.end)};
    }
    stage.counted[a] = {{owned.begin, copy.begin}, {copy.end, owned.end}};
  }
}

}  // namespace

Shard owned_shard(const Program& program, Place place, const Stage& stage, Arena arena) {
  Op group;
  group.pp_rank = place.pp_rank;
  group.stage = static_cast<int32_t>(stage.index);
  group.group = arena == Arena::kDense ? Group::kStageReplicas : Group::kExpertReplicas;
  const std::vector<Place> members = program.members(group, place.data_rank);
  const auto index = std::find(members.begin(), members.end(), place) - members.begin();
  CHECK(index < static_cast<int64_t>(members.size())) << "no copy of stage " << stage.index;
  return shard_of(stage.where.arena_size(arena), index, static_cast<int64_t>(members.size()));
}

Shard optimizer_shard(const Program& program, Place place, const Stage& stage, Arena arena) {
  if (program.layout().zero_stage == 0) return {0, stage.where.arena_size(arena)};
  return owned_shard(program, place, stage, arena);
}

void start_weights(const Plan& plan,
                   const PrecisionRecipe& recipe,
                   const Program& program,
                   Place place,
                   const Compute& compute,
                   Stage& stage) {
  cut_segments(plan, program, place, stage);
  Shard shards[2];
  for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
    const Shard shard = optimizer_shard(program, place, stage, arena);
    if (recipe.masters()) stage.master[static_cast<size_t>(arena)].resize(shard.end - shard.begin);
    shards[static_cast<size_t>(arena)] = shard;
  }
  for (const Parameter& p : stage.where.list) {
    stage.set_weights(p.arena,
                      p.offset,
                      first_values(p, plan.training.seed, plan.model.init_std),
                      shards[static_cast<size_t>(p.arena)]);
  }
  for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
    stage.weights.encode_operands(compute, arena);
  }
}

bool ends_step(OpKind kind) {
  return kind == OpKind::kGradReduce || kind == OpKind::kGradNorm || kind == OpKind::kOptimizer ||
         kind == OpKind::kParamGather || kind == OpKind::kBiasUpdate;
}

void end_step(const StepEnd& s, const Op& op, const Ready& ready) {
  switch (op.kind) {
    case OpKind::kGradReduce:
      reduce_gradients(s, op, ready);
      return;
    case OpKind::kGradNorm:
      norm_gradients(s, op, ready);
      return;
    case OpKind::kOptimizer:
      if (!s.settings.probe) optimize(s, op);
      return;
    case OpKind::kParamGather:
      gather_weights(s, op, ready);
      return;
    case OpKind::kBiasUpdate:
      if (!s.settings.probe) sum_loads(s, op, ready);
      return;
    default:
      CHECK(false) << "not an op that ends a step: " << to_string(op);
  }
}

void settle(const Plan& plan, RankState& rank) {
  if (!step_applies(rank.status.values<double>().data())) return;
  for (Stage& stage : rank.copies) {
    for (size_t local = 0; local < stage.expert_bias.size(); ++local) {
      if (stage.expert_bias[local].empty()) continue;
      rank.compute.update_bias(stage.load_of(stage.total_load, local),
                               plan.training.bias_update_speed,
                               stage.expert_bias[local].array());
    }
  }
}

}  // namespace rehearse
