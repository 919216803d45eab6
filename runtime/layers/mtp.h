#pragma once
// A multi-token-prediction module before its layer: what came out of the layers before and the
// embeddings of the tokens ahead, normed and projected to the layer's input.
// Source: DeepSeek-V3 technical report, section 2.2, equation 21.

#include "runtime/layers/activations.h"

namespace rehearse {

// What it keeps of one micro-batch.
struct MtpActivations {
  Tensor tokens;                      // [T, 1], INT32
  Tensor embedded, embedded_inverse;  // [T, D], [T, 1]
  Tensor hidden_inverse;              // [T, 1]; the norm's input is the x of the head before
  Tensor both;                        // [T, 2 D] the projection's input
  Tensor output;                      // [T, D] of the module's layer, to its head
  Tensor d_x;                         // [T, D] of the layer's input
  Tensor d_embedded, d_hidden;        // [T, D] of the norms' inputs
  Tensor d_gains;                     // [1, 2 D]
};

struct MtpWeights {
  const MtpIds& ids;
  ParameterId embedding = 0;
  // Of the stage of the module, and of the one that holds the embedding's table.
  const ParameterValues& weights;
  ParameterValues& gradients;
  const ParameterValues& table;
  ParameterValues& table_gradients;
};

// hidden: [T, D]; a.tokens: the tokens ahead. Returns the layer's input, [T, D].
Tensor mtp_forward(const LayerContext& c,
                   const MtpWeights& w,
                   const Tensor& hidden,
                   MtpActivations& a);
// a.d_x -> a.d_hidden, a.d_embedded.
void mtp_input(const LayerContext& c, const MtpWeights& w, const Tensor& hidden, MtpActivations& a);
// Adds to the gradients.
void mtp_weight(const LayerContext& c, const MtpWeights& w, MtpActivations& a);

}  // namespace rehearse
