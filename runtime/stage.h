#pragma once
// One copy of a pipeline stage on one rank: its weights, gradients, moments, expert biases, and the
// activations of the micro-batches under way. Under DualPipe a rank holds two (one per direction).

#include <memory>
#include <vector>

#include "runtime/data/text_data.h"
#include "runtime/layers/activations.h"

namespace rehearse {

// A micro-batch's passage through a stage. What comes in, embedded or received, is the first
// layer's x; the gradient that comes in is the last layer's d_out.
struct MtpActivations {
  std::vector<int32_t> tokens;        // [T]
  Tensor embedded, embedded_inverse;  // [T, D], [T, 1]
  Tensor hidden_inverse;              // [T, 1]; the norm's input is the x of the head before
  Tensor both;                        // [T, 2 D] the projection's input
  Tensor output;                      // [T, D] of the module's layer, to its head
  Tensor d_x;                         // [T, D] of the layer's input
  Tensor d_embedded, d_hidden;        // [T, D] of the norms' inputs
  Tensor d_gains;                     // [1, 2 D]
};

struct ChunkActivations {
  std::vector<LayerActivations> layers;
  Tensor output;   // [T, D] to the next stage or the head
  Tensor d_input;  // [T, D] to the previous stage, or to the embedding's gradient
  std::vector<HeadActivations> heads;  // of the last stage: the model's, then MTP modules'
  std::vector<MtpActivations> mtp;
  std::vector<float> kept_logits;  // of a probe
  std::vector<double> mtp_losses;  // the same of each module, over the tokens that it predicts
  double loss = 0;                 // sum over tokens, of the last stage
};

struct Stage {
  // placements: placements_of the plan.
  Stage(const Plan& plan,
        const PrecisionRecipe& recipe,
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
  // Per layer of the stage: [experts] the slot of each, empty where they stand in order.
  std::vector<std::vector<int32_t>> slot_of;
  // Per layer of the stage: [experts], empty for dense layers.
  std::vector<std::vector<float>> expert_bias;
  std::vector<std::vector<int64_t>> expert_load;  // tokens per expert in this step, this copy
  // Per layer: micro-batches of this step whose output, and input's gradient, are not all finite.
  std::vector<int64_t> bad_outputs, bad_gradients;
  // [layer][micro-batch]: which experts the tokens chose; kept when the device records choices.
  std::vector<std::vector<std::vector<int32_t>>> choices;
  std::vector<std::vector<std::vector<float>>> gate_weights;  // the gate's, of these
  std::vector<ChunkActivations> chunks;                       // by micro-batch of the data rank

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
    return {
        .ids = where.layers[local],
        .weights = weights,
        .gradients = gradients,
        .expert_bias = expert_bias[local].empty() ? ConstArray() : ConstArray(expert_bias[local])};
  }
};

}  // namespace rehearse
