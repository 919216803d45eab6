#include "runtime/devices/cpu/step_end.h"

#include <algorithm>
#include <cmath>

#include "kernels/adamw/adamw.h"
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

Shard owned(const StepEnd& s, const Stage& stage, Arena arena, const Op& op) {
  return owned_shard(s.program, {op.pp_rank, s.data_rank}, stage, arena);
}

void reduce_gradients(const StepEnd& s, const Op& op, const Ready& ready) {
  const std::vector<int64_t> members = ranks_of(s, op);
  const Collective c{members, key_of(op)};
  if (op.group == Group::kEmbeddings) {
    Stage& stage = stage_of(s, op);
    s.communicator.all_reduce(
        c, rank_of(s, op), stage.gradients.array(*stage.where.embedding), ready);
    return;
  }
  const Array gradients = stage_of(s, op).gradients.arena(arena_of(op)).array();
  if (s.plan.layout.zero_stage == 0) {
    s.communicator.all_reduce(c, rank_of(s, op), gradients, ready);
  } else {
    s.communicator.reduce_scatter(c, rank_of(s, op), gradients, ready);
  }
}

void gather_weights(const StepEnd& s, const Op& op, const Ready& ready) {
  const std::vector<int64_t> members = ranks_of(s, op);
  s.communicator.all_gather({members, key_of(op)},
                            rank_of(s, op),
                            stage_of(s, op).weights.arena(arena_of(op)).array(),
                            ready);
}

void norm_gradients(const StepEnd& s, const Op& op, const Ready& ready) {
  // Every parameter stands in exactly one rank's shard, so each is counted once. The op's time
  // begins here, with its own work, and so includes the wait for the slowest rank's.
  ready();
  double squares = 0;
  for (Stage& stage : s.rank.copies) {
    for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
      const Shard shard = owned(s, stage, arena, op);
      // A copy of the embedding's table counts where the other one stands.
      Shard copy{shard.end, shard.end};
      if (stage.where.embedding_is_copy && arena == Arena::kDense) {
        const Parameter& p = stage.where.list[static_cast<size_t>(*stage.where.embedding)];
        copy = {std::clamp(p.offset, shard.begin, shard.end),
                std::clamp(p.offset + p.size(), shard.begin, shard.end)};
      }
      const float* const gradients = stage.gradients.arena(arena).fp32();
      squares += kernels::square_sum(copy.begin - shard.begin, gradients + shard.begin);
      squares += kernels::square_sum(shard.end - copy.end, gradients + copy.end);
    }
  }
  const std::vector<int64_t> members = ranks_of(s, op);
  s.rank.gradient_norm =
      std::sqrt(s.communicator.sum({members, key_of(op)}, rank_of(s, op), squares, [] {}));
}

void optimize(const StepEnd& s, const Op& op) {
  // Gradients that are not finite would be the end of the weights; the trainer stops behind the
  // step.
  if (!std::isfinite(s.rank.gradient_norm)) return;
  const Training& t = s.plan.training;
  Stage& stage = stage_of(s, op);
  kernels::AdamWSettings settings{.learning_rate = s.settings.learning_rate,
                                  .beta1 = t.beta1,
                                  .beta2 = t.beta2,
                                  .eps = t.adam_eps,
                                  .step = s.settings.step + 1};
  if (t.gradient_clip > 0 && s.rank.gradient_norm > t.gradient_clip) {
    settings.gradient_scale = t.gradient_clip / s.rank.gradient_norm;
  }
  for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
    const Shard shard = optimizer_shard(s.program, {op.pp_rank, s.data_rank}, stage, arena);
    const int64_t size = shard.end - shard.begin;
    FlatValues& m = stage.m[static_cast<size_t>(arena)];
    FlatValues& v = stage.v[static_cast<size_t>(arena)];
    FlatValues& gradients = stage.gradients.arena(arena);
    FlatValues& weights = stage.weights.arena(arena);
    FlatValues& master = stage.master[static_cast<size_t>(arena)];
    const bool rounds = weights.type() != DType::kFp32;
    m.resize(size);
    v.resize(size);
    FlatValues& average = stage.average[static_cast<size_t>(arena)];
    float* const own = rounds ? master.fp32() : weights.fp32(shard.begin);
    if (t.ema > 0 && average.empty()) {
      average.resize(size);
      std::copy_n(own, size, average.fp32());
    }
    for (const Parameter& p : stage.where.list) {
      if (p.arena != arena) continue;
      const int64_t begin = std::max(p.offset, shard.begin) - shard.begin;
      const int64_t end = std::min(p.offset + p.size(), shard.end) - shard.begin;
      if (begin >= end) continue;
      settings.weight_decay = p.is_gain ? 0 : t.weight_decay;
      const auto update = [&](auto* first, auto* second) {
        kernels::adamw(settings,
                       end - begin,
                       gradients.fp32(shard.begin + begin),
                       own + begin,
                       first + begin,
                       second + begin);
      };
      m.type() == DType::kBf16 ? update(m.bf16(), v.bf16()) : update(m.fp32(), v.fp32());
    }
    if (rounds) convert(master.array(), weights.array(shard.begin, size, 1));
    const auto decay = static_cast<float>(t.ema);
    float* const averages = average.fp32();
    for (int64_t i = 0; i < average.size(); ++i) {
      averages[i] = decay * averages[i] + (1 - decay) * own[i];
    }
    std::fill_n(gradients.fp32(), gradients.size(), 0.0f);
  }
}

// b_i += gamma sign(mean load - load_i), over the whole batch (report, section 2.1.2).
void update_bias(const StepEnd& s, const Op& op, const Ready& ready) {
  Stage& stage = stage_of(s, op);
  std::vector<int64_t> flat;
  for (const auto& load : stage.expert_load) flat.insert(flat.end(), load.begin(), load.end());
  const std::vector<int64_t> members = ranks_of(s, op);
  const std::vector<int64_t> total =
      s.communicator.sum({members, key_of(op)}, rank_of(s, op), flat, ready);
  size_t at = 0;
  for (size_t layer = 0; layer < stage.expert_load.size(); ++layer) {
    const size_t experts = stage.expert_load[layer].size();
    if (experts == 0) continue;
    const auto load = std::span(total).subspan(at, experts);
    at += experts;
    int64_t sum = 0;
    for (const int64_t n : load) sum += n;
    for (size_t e = 0; e < experts; ++e) {
      const int64_t above = load[e] * static_cast<int64_t>(experts) - sum;
      const double sign = above > 0 ? -1 : above < 0 ? 1 : 0;
      stage.expert_bias[layer][e] += static_cast<float>(s.plan.training.bias_update_speed * sign);
    }
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
                   Stage& stage) {
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
      if (!s.settings.probe) update_bias(s, op, ready);
      return;
    default:
      CHECK(false) << "not an op that ends a step: " << to_string(op);
  }
}

}  // namespace rehearse
