#pragma once
// A small plan for tests, made in memory.

#include <ostream>

#include "plan/plan.h"

namespace rehearse {

// How test lists name a layout.
inline void PrintTo(const Layout& l, std::ostream* out) {
  *out << name_of(l.schedule) << " PP" << l.pp << " DP" << l.dp << " EP" << l.ep << " ZeRO-"
       << l.zero_stage;
}

inline Plan small_plan(Layout layout) {
  Plan plan;
  plan.path = "small.yaml";
  plan.model.name = "small";
  plan.model.init_std = 0.05;
  plan.model.architecture = {.vocabulary = 256,
                             .hidden = 32,
                             .layers = 4,
                             .dense = LayerSet::leading(1),
                             .dense_intermediate = 48,
                             .expert_intermediate = 16,
                             .experts = 8,
                             .shared_experts = 1,
                             .active_experts = 2,
                             .groups = 4,
                             .kept_groups = 2,
                             .heads = 2,
                             .q_lora = 24,
                             .kv_lora = 16,
                             .qk_nope = 8,
                             .qk_rope = 4,
                             .v_head = 8};
  plan.cluster = {.name = "cores",
                  .devices_per_node = 64,
                  .cores = 2,
                  .peak = FlopsPerSecond(1e10),
                  .memory_bandwidth = BytesPerSecond(1e10),
                  .memory = Bytes(1'000'000'000)};
  plan.training = {.micro_batches = 8,
                   .micro_batch_size = 2,
                   .sequence_length = 16,
                   .steps = 10,
                   .learning_rate = 3e-3,
                   .final_learning_rate = 3e-4,
                   .warmup_steps = 2,
                   .bias_update_speed = 0.01};
  if (layout.layers_per_stage.empty()) {
    layout.layers_per_stage = even_layers(plan.model.architecture.layers, layout.stages());
  }
  plan.layout = std::move(layout);
  return plan;
}

}  // namespace rehearse
