#include "plan/program/memory.h"

#include <algorithm>
#include <cmath>

#include "base/integers.h"
#include "cost/gpu_tasks.h"
#include "plan/program/op_work.h"
#include "plan/program/schedule.h"

namespace rehearse {

namespace {

ParameterCounts counts_of(const Plan& plan) {
  return parameter_counts(plan.model.architecture, {.tp = plan.layout.tp, .etp = plan.layout.etp});
}

StageWeights layer_weights(const Plan& plan, const ParameterCounts& p, int64_t layer) {
  const Architecture& a = plan.model.architecture;
  if (!a.is_moe(layer)) return {.dense = p.attention + p.dense_mlp};
  return {.dense = p.attention + p.gate + p.shared,
          .expert = plan.layout.experts_per_rank(a.experts) * p.expert};
}

int64_t stage_ends(const Plan& plan, const ParameterCounts& p, int64_t stage) {
  const Architecture& a = plan.model.architecture;
  const Layout& l = plan.layout;
  int64_t ends = stage == 0 ? p.embedding : 0;
  if (!l.is_last(stage)) return ends;
  ends += p.head + a.mtp_depth * p.mtp_projection;
  // Where the embedding stands on the same rank it is shared; else this is a copy, for MTP modules'
  // tokens or for a head that is the embedding's table.
  const bool used = a.mtp_depth > 0 || a.tied_embeddings;
  return used && !l.ends_meet() ? ends + p.embedding : ends;
}

}  // namespace

StageWeights layer_weights(const Plan& plan, int64_t layer) {
  return layer_weights(plan, counts_of(plan), layer);
}
int64_t stage_ends(const Plan& plan, int64_t stage) {
  return stage_ends(plan, counts_of(plan), stage);
}

StageWeights stage_weights(const Plan& plan, int64_t stage) {
  const ParameterCounts p = counts_of(plan);
  const Layout& l = plan.layout;
  StageWeights w{.dense = stage_ends(plan, p, stage)};
  const auto add_layer = [&](int64_t layer) {
    const StageWeights of_layer = layer_weights(plan, p, layer);
    w.dense += of_layer.dense;
    w.expert += of_layer.expert;
  };
  for (int64_t layer = l.first_layer(stage); layer < l.end_layer(stage); ++layer) {
    add_layer(layer);
  }
  const int64_t modules = l.is_last(stage) ? plan.model.architecture.mtp_depth : 0;
  for (int64_t m = 0; m < modules; ++m) add_layer(plan.model.architecture.layers + m);
  return w;
}

RankMemory rank_memory(const Plan& plan, int64_t pp_rank) {
  const Layout& l = plan.layout;
  const Layers layers(plan.model.architecture, {.tp = l.tp, .etp = l.etp});
  const Architecture& a = layers.architecture;
  const PrecisionBytes& bytes = bytes_of(plan.training.precision);
  const RankSchedule schedule = build_schedule(l, plan.training.micro_batches, pp_rank);
  const auto share = [&](int64_t elements, int64_t replicas) {
    return l.zero_stage == 0 ? elements : ceil_div(elements, replicas);
  };
  const bool gpu = plan.cluster.of_gpus();
  const GpuRecipe recipe = gpu_recipe(plan);
  GpuRecipe all_kept = recipe;
  all_kept.recompute.layer = false;
  const auto tokens = static_cast<double>(plan.micro_batch_tokens());
  // Bytes of a micro-batch in a layer.
  const auto kept = [&](int64_t layer, const GpuRecipe& how) {
    if (!gpu) {
      return tokens *
             static_cast<double>(kept_elements(layers.at(layer), a.hidden, a.active_experts) *
                                 bytes.activation);
    }
    const KeptBytes k = kept_bytes(
        layers, a.is_moe(layer), a.is_windowed(layer), plan.training.sequence_length, bytes, how);
    return k.own * tokens + k.gathered * static_cast<double>(plan.gathered_tokens());
  };
  RankMemory m;
  std::vector<Held> per_micro_batch;  // bytes, by direction
  for (int64_t direction = 0; direction < l.slots(); ++direction) {
    const int64_t stage = l.stage_of(pp_rank, direction);
    const StageWeights w = stage_weights(plan, stage);
    // ZeRO-2 keeps a shard of the gradients, ZeRO-3 of the weights too: of the others' there is
    // what is under way, a layer's gradients, two layers' weights.
    const auto held = [&](int64_t from_stage, int64_t layers_under_way) {
      if (l.zero_stage < from_stage) return w.dense + w.expert;
      int64_t largest = stage_ends(plan, stage);
      for (int64_t layer = l.first_layer(stage); layer < l.end_layer(stage); ++layer) {
        const StageWeights of = layer_weights(plan, layer);
        largest = std::max(largest, layers_under_way * (of.dense + of.expert));
      }
      const int64_t shard =
          ceil_div(w.dense, l.replicas()) + ceil_div(w.expert, l.expert_replicas());
      return std::min(w.dense + w.expert, shard + largest);
    };
    m.parameters += Bytes(held(3, 2)) * bytes.weight;
    m.gradients += Bytes(held(2, 1)) * 4;
    m.optimizer += Bytes(share(w.dense, l.replicas()) + share(w.expert, l.expert_replicas())) *
                   (bytes.master + 2 * bytes.moment);

    Held held_here;
    const auto keep = [&](double size) {
      held_here.kept += size;
      held_here.deferred += size;
    };
    const auto keep_layer = [&](int64_t layer) {
      if (!gpu || !recipe.recompute.layer) return keep(kept(layer, recipe));
      // Its input alone, until it is computed again: for as long as its backward takes, or, where
      // weight gradients wait, until they are done.
      const double again = kept(layer, all_kept);
      held_here.kept += kept(layer, recipe);
      held_here.backward = std::max(held_here.backward, again);
      held_here.deferred += again;
    };
    for (int64_t layer = l.first_layer(stage); layer < l.end_layer(stage); ++layer) {
      keep_layer(layer);
    }
    if (l.is_last(stage) && gpu) {
      for (int64_t module = 0; module < a.mtp_depth; ++module) {
        keep_layer(a.layers + module);
        // Inputs of both norms, and what M multiplies (report, equation 21).
        keep(tokens * static_cast<double>(a.hidden) * (2 * 2 + 2 * bytes.kept_input));
      }
      const int64_t heads = 1 + a.mtp_depth;
      // The final norm's input and output, in BF16.
      keep(tokens * static_cast<double>(heads * a.hidden * (2 + 2)));
      // Logits, then their gradients, exist for one micro-batch at a time: all of its heads'.
      m.activations += Bytes(heads * plan.gathered_tokens() * ceil_div(a.vocabulary, l.tp) * 4);
    } else if (l.is_last(stage)) {
      keep(tokens * static_cast<double>((2 * a.hidden + a.vocabulary) * bytes.activation));
    }
    per_micro_batch.push_back(held_here);
  }
  m.activations += Bytes(std::llround(peak_held(schedule, per_micro_batch)));
  return m;
}

Bytes device_need(const Plan& plan) {
  Bytes most;
  for (int64_t r = 0; r < plan.layout.pp; ++r) most = std::max(most, rank_memory(plan, r).total());
  if (!plan.cluster.of_gpus()) {
    most = most * std::min(plan.layout.world(), plan.cluster.devices_per_node);
  }
  return most;
}

bool fits_memory(const Plan& plan) {
  return device_need(plan) <= plan.cluster.memory;
}

}  // namespace rehearse
