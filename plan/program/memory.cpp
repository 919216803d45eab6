#include "plan/program/memory.h"

#include <algorithm>
#include <cmath>

#include "base/integers.h"
#include "cost/gpu_tasks.h"
#include "plan/program/op_work.h"
#include "plan/program/schedule.h"

namespace rehearse {

StageWeights stage_weights(const Plan& plan, int64_t stage) {
  const Architecture& a = plan.model.architecture;
  const Layout& l = plan.layout;
  const ParameterCounts p = parameter_counts(a, {.tp = l.tp, .etp = l.etp});
  const int64_t experts = l.experts_per_rank(a.experts);
  StageWeights w;
  const auto add_layer = [&](int64_t layer) {
    const bool moe = a.is_moe(layer);
    w.dense += p.attention + (moe ? p.gate + p.shared : p.dense_mlp);
    if (moe) w.expert += experts * p.expert;
  };
  const int64_t first = l.first_layer(stage);
  for (int64_t layer = first; layer < l.end_layer(stage); ++layer) add_layer(layer);
  if (stage == 0) w.dense += p.embedding;
  if (l.is_last(stage)) {
    w.dense += p.head;
    for (int64_t module = 0; module < a.mtp_depth; ++module) {
      add_layer(a.layers + module);
      w.dense += p.mtp_projection;
    }
    // Where the embedding stands on the same rank it is shared; else this is a copy, for MTP
    // modules' tokens or for a head that is the embedding's table.
    const bool used = a.mtp_depth > 0 || a.tied_embeddings;
    if (used && !l.ends_meet()) w.dense += p.embedding;
  }
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
  // Bytes of a micro-batch in a layer.
  const auto kept = [&](int64_t layer) {
    const auto tokens = static_cast<double>(plan.micro_batch_tokens());
    if (!gpu) {
      return tokens *
             static_cast<double>(kept_elements(layers.at(layer), a.hidden, a.active_experts) *
                                 bytes.activation);
    }
    const KeptBytes k = kept_bytes(layers,
                                   a.is_moe(layer),
                                   a.is_windowed(layer),
                                   plan.training.sequence_length,
                                   bytes,
                                   gpu_recipe(plan));
    return k.own * tokens + k.gathered * static_cast<double>(plan.gathered_tokens());
  };
  RankMemory m;
  std::vector<double> per_micro_batch;  // bytes that one keeps, by direction
  for (int64_t direction = 0; direction < l.slots(); ++direction) {
    const int64_t stage = l.stage_of(pp_rank, direction);
    const StageWeights w = stage_weights(plan, stage);
    m.parameters += Bytes(w.dense + w.expert) * bytes.weight;
    m.gradients += Bytes(w.dense + w.expert) * 4;
    m.optimizer += Bytes(share(w.dense, l.replicas()) + share(w.expert, l.expert_replicas())) *
                   (bytes.master + 2 * bytes.moment);

    double held = 0;
    for (int64_t layer = l.first_layer(stage); layer < l.end_layer(stage); ++layer) {
      held += kept(layer);
    }
    Bytes logits;
    if (l.is_last(stage) && gpu) {
      for (int64_t module = 0; module < a.mtp_depth; ++module) held += kept(a.layers + module);
      // Logits and their gradients exist for one micro-batch at a time.
      logits = Bytes(plan.gathered_tokens() * ceil_div(a.vocabulary, l.tp) * 4);
    } else if (l.is_last(stage)) {
      held += static_cast<double>(plan.micro_batch_tokens() * (2 * a.hidden + a.vocabulary) *
                                  bytes.activation);
    }
    per_micro_batch.push_back(held);
    m.activations += logits;
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
