#include "runtime/stage.h"

#include <algorithm>

#include "plan/routing/placement.h"

namespace rehearse {

Stage::Stage(const Plan& plan,
             const PrecisionRecipe& recipe,
             int64_t stage,
             int64_t ep_rank,
             const std::vector<Placement>& placements)
    : index(stage),
      first_layer(plan.layout.first_layer(stage)),
      main_layers(static_cast<size_t>(plan.layout.end_layer(stage) - first_layer)),
      where(plan, stage, ep_rank, placements),
      weights(where, recipe.weights),
      gradients(where, recipe.weight_gradients),
      chunks(static_cast<size_t>(plan.training.micro_batches)) {
  for (const size_t arena : {0, 1}) m[arena] = v[arena] = FlatValues(recipe.moments);
  const Architecture& a = plan.model.architecture;
  for (const LayerIds& ids : where.layers) {
    const int64_t layer = first_layer + static_cast<int64_t>(slot_of.size());
    const Placement* const placed = placement_of(placements, a.moe_layers_before(layer));
    slot_of.emplace_back();
    if (ids.gate && placed != nullptr) {
      for (const auto& slots : placed->slots_of()) slot_of.back().push_back(slots.front());
    }
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

void Stage::set_weights(Arena arena, int64_t begin, std::span<const float> values, Shard owned) {
  weights.arena(arena).set(begin, values);
  FlatValues& masters = master[static_cast<size_t>(arena)];
  if (masters.empty()) return;
  const auto end = begin + static_cast<int64_t>(values.size());
  const int64_t first = std::max(begin, owned.begin);
  const int64_t count = std::min(end, owned.end) - first;
  if (count <= 0) return;
  masters.set(first - owned.begin,
              values.subspan(static_cast<size_t>(first - begin), static_cast<size_t>(count)));
}

}  // namespace rehearse
