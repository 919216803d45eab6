#include "runtime/stage.h"

namespace rehearse {

Stage::Stage(const Plan& plan, int64_t stage, int64_t ep_rank)
    : index(stage),
      first_layer(plan.layout.first_layer(stage)),
      main_layers(static_cast<size_t>(plan.layout.end_layer(stage) - first_layer)),
      where(plan, stage, ep_rank),
      weights(where),
      gradients(where),
      chunks(static_cast<size_t>(plan.training.micro_batches)) {
  initialize(where, plan.training.seed, plan.model.init_std, weights);
  const Architecture& a = plan.model.architecture;
  for (const LayerIds& ids : where.layers) {
    const auto experts = static_cast<size_t>(ids.gate ? a.experts : 0);
    expert_bias.emplace_back(a.expert_bias ? experts : 0, 0.0f);
    expert_load.emplace_back(experts, 0);
    choices.emplace_back(chunks.size());
    gate_weights.emplace_back(chunks.size());
  }
  bad_outputs.resize(where.layers.size(), 0);
  bad_gradients.resize(where.layers.size(), 0);
  for (ChunkActivations& c : chunks) {
    c.layers.resize(where.layers.size());
    if (!where.head) continue;
    c.heads.resize(1 + where.mtp.size());
    c.mtp.resize(where.mtp.size());
    c.mtp_losses.resize(where.mtp.size(), 0);
  }
}

}  // namespace rehearse
