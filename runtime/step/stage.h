#pragma once
// One copy of a pipeline stage on one rank: its weights, gradients, moments, expert biases, and the
// activations of the micro-batches under way. Under DualPipe a rank holds two (one per direction).

#include <memory>
#include <vector>

#include "runtime/layers/mtp.h"
#include "runtime/memory/shard.h"

namespace rehearse {

// A micro-batch's passage through a stage. What comes in, embedded or received, is the first
// layer's x; the gradient that comes in is the last layer's d_out.
struct ChunkActivations {
  std::vector<LayerActivations> layers;
  Tensor output;   // [T, D] to the next stage or the head
  Tensor d_input;  // [T, D] to the previous stage, or to the embedding's gradient
  std::vector<HeadActivations> heads;  // of the last stage: the model's, then MTP modules'
  std::vector<MtpActivations> mtp;
  std::vector<float> kept_logits;  // of a probe
};

struct Stage {
  // placements: placements_of the plan. memory: of the rank's arrays.
  Stage(const Plan& plan,
        const PrecisionRecipe& recipe,
        Memory& memory,
        int64_t stage,
        int64_t ep_rank,
        const std::vector<Placement>& placements);
  Stage(const Stage&) = delete;  // the values point at `where`
  Stage& operator=(const Stage&) = delete;

  int64_t index;        // of the stage
  int64_t first_layer;  // global index of its first layer
  size_t main_layers;   // without those of MTP modules
  StageParameters where;
  ParameterValues weights;
  ParameterValues gradients;
  // Of this rank's shard of each arena: FP32 masters, where weights are of another type; AdamW
  // moments, sized by the first optimizer op; averages, where training.ema is.
  FlatValues master[2], m[2], v[2], average[2];
  // What AdamW updates of each arena, and the parts of the gradient that count for its norm here.
  std::vector<AdamwCall::Segment> segments[2];
  std::vector<Shard> counted[2];
  // Per layer of the stage: [experts] the slot of each, empty where they stand in order.
  std::vector<FlatValues> slot_of;
  // Per layer of the stage: [experts], empty for dense layers.
  std::vector<FlatValues> expert_bias;
  // Tokens per expert in this step, layer after layer: of this copy, and of all.
  FlatValues expert_load, total_load;
  std::vector<int64_t> load_begins;  // per layer, and the end
  // Per layer: micro-batches of this step whose output, and input's gradient, are not all finite.
  FlatValues bad_outputs, bad_gradients;
  // [1 + modules, micro-batches]: sums over tokens, FP64; of the last stage.
  FlatValues losses;
  // [layer][micro-batch]: which experts the tokens chose; kept when the device records choices.
  std::vector<std::vector<std::vector<int32_t>>> choices;
  std::vector<std::vector<std::vector<float>>> gate_weights;  // the gate's, of these
  std::vector<ChunkActivations> chunks;                       // by micro-batch of the data rank

  // Before a step: counts and losses are zeros.
  void clear_counts();
  int64_t experts_of(size_t local) const { return load_begins[local + 1] - load_begins[local]; }
  Array load_of(FlatValues& loads, size_t local) const {
    return loads.array(load_begins[local], experts_of(local), 1);
  }
  // module: 0 the model's own.
  Array loss(size_t module, size_t micro_batch) {
    return losses.array(static_cast<int64_t>(module * chunks.size() + micro_batch), 1, 1);
  }
  // Weights from `begin` of an arena on, and their masters where there are some: of `owned`.
  void set_weights(Arena arena, int64_t begin, std::span<const float> values, Shard owned);

  size_t local_layer(int32_t layer) const { return static_cast<size_t>(layer - first_layer); }
  // module: 0 the model's own. REQUIRES: where.head, which the last stage has.
  HeadWeights head_weights(size_t module) {
    return {.norm = module == 0 ? *where.final_norm : where.mtp[module - 1].head_norm,
            .projection = *where.head,
            .weights = weights,
            .gradients = gradients};
  }
  LayerWeights layer_weights(size_t local) {
    return {.ids = where.layers[local],
            .weights = weights,
            .gradients = gradients,
            .expert_bias = expert_bias[local].array()};
  }
};

}  // namespace rehearse
