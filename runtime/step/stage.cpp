#include "runtime/step/stage.h"

#include <algorithm>

#include "plan/routing/placement.h"

namespace rehearse {

Stage::Stage(const Plan& plan,
             const PrecisionRecipe& recipe,
             Memory& memory,
             int64_t stage,
             int64_t ep_rank,
             const std::vector<Placement>& placements)
    : index(stage),
      first_layer(plan.layout.first_layer(stage)),
      main_layers(static_cast<size_t>(plan.layout.end_layer(stage) - first_layer)),
      where(plan, stage, ep_rank, placements),
      weights(where, recipe.weights, recipe.products.weight, memory),
      gradients(where, recipe.weight_gradients, recipe.weight_gradients, memory),
      chunks(static_cast<size_t>(plan.training.micro_batches)) {
  for (const size_t arena : {0, 1}) {
    m[arena] = FlatValues(recipe.moments, 0, memory);
    v[arena] = FlatValues(recipe.moments, 0, memory);
    master[arena] = FlatValues(DType::kFp32, 0, memory);
    average[arena] = FlatValues(DType::kFp32, 0, memory);
  }
  load_begins = {0};
  const Architecture& a = plan.model.architecture;
  for (const LayerIds& ids : where.layers) {
    const int64_t layer = first_layer + static_cast<int64_t>(slot_of.size());
    const Placement* const placed = placement_of(placements, a.moe_layers_before(layer));
    std::vector<int32_t> slots_of;
    if (ids.gate && placed != nullptr) {
      for (const auto& slots : placed->slots_of()) slots_of.push_back(slots.front());
    }
    slot_of.emplace_back(DType::kInt32, std::ssize(slots_of), memory);
    if (!slots_of.empty()) slot_of.back().set_values(std::span<const int32_t>(slots_of));
    const int64_t experts = ids.gate ? a.experts : 0;
    expert_bias.emplace_back(DType::kFp32, a.expert_bias ? experts : 0, memory);
    load_begins.push_back(load_begins.back() + experts);
    choices.emplace_back(chunks.size());
    gate_weights.emplace_back(chunks.size());
  }
  expert_load = FlatValues(DType::kInt64, load_begins.back(), memory);
  total_load = FlatValues(DType::kInt64, load_begins.back(), memory);
  bad_outputs = FlatValues(DType::kInt64, std::ssize(where.layers), memory);
  bad_gradients = FlatValues(DType::kInt64, std::ssize(where.layers), memory);
  const size_t ends = where.head ? 1 + where.mtp.size() : 0;
  losses = FlatValues(DType::kFp64, static_cast<int64_t>(ends * chunks.size()), memory);
  for (ChunkActivations& c : chunks) {
    c.layers.resize(where.layers.size());
    if (!where.head) continue;
    c.heads.resize(1 + where.mtp.size());
    c.mtp.resize(where.mtp.size());
  }
}

void Stage::clear_counts() {
  for (FlatValues* counts : {&expert_load, &bad_outputs, &bad_gradients, &losses}) counts->clear();
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
