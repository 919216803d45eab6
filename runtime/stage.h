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
struct ChunkActivations {
  std::vector<LayerActivations> layers;
  Tensor output;   // [T, D] to the next stage or the head
  Tensor d_input;  // [T, D] to the previous stage, or to the embedding's gradient
  HeadActivations head;
  std::vector<float> kept_logits;  // of a probe
  double loss = 0;                 // sum over tokens, of the last stage
};

struct Stage {
  Stage(const Plan& plan, int64_t stage, int64_t ep_rank);
  Stage(const Stage&) = delete;  // the values point at `where`
  Stage& operator=(const Stage&) = delete;

  int64_t index;        // of the stage
  int64_t first_layer;  // global index of its first layer
  StageParameters where;
  ParameterValues weights;
  ParameterValues gradients;
  // AdamW moments of this rank's shard of each arena; sized by the first optimizer op.
  std::vector<float, BigAllocator<float>> m[2], v[2];
  // Per layer of the stage: [experts], empty for dense layers.
  std::vector<std::vector<float>> expert_bias;
  std::vector<std::vector<int64_t>> expert_load;  // tokens per expert in this step, this copy
  // [layer][micro-batch]: which experts the tokens chose; kept when the device records choices.
  std::vector<std::vector<std::vector<int32_t>>> choices;
  std::vector<ChunkActivations> chunks;  // by micro-batch of the data rank

  size_t local_layer(int32_t layer) const { return static_cast<size_t>(layer - first_layer); }
  // REQUIRES: where.head, which the last stage has.
  HeadWeights head_weights() {
    return {.norm = *where.final_norm,
            .projection = *where.head,
            .weights = weights,
            .gradients = gradients};
  }
  LayerWeights layer_weights(size_t local) {
    return {.ids = where.layers[local],
            .weights = weights,
            .gradients = gradients,
            .expert_bias = expert_bias[local].empty() ? nullptr : expert_bias[local].data()};
  }
};

}  // namespace rehearse
