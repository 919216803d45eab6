#pragma once
// A gated feed-forward network, down(SwiGLU(gate_up(x))), as the dense layers, the shared experts
// and each routed expert have it. The products stand apart from the activation, because the routed
// experts share one activation over all their rows.

#include "runtime/layers/activations.h"

namespace rehearse {

struct FfnCall {
  FfnIds ids;
  int64_t rows = 0;
  int64_t hidden = 0;
  int64_t width = 0;
};

// gate_up = x gate_up_weight^T.  x: [rows, hidden]; gate_up: [rows, 2 width].
void ffn_up(const FfnCall& f, const LayerWeights& w, const float* x, float* gate_up);
// y = activated down_weight^T.  activated: [rows, width]; y: [rows, hidden].
void ffn_down(const FfnCall& f, const LayerWeights& w, const float* activated, float* y);
// d_activated = dy down_weight.
void ffn_down_input(const FfnCall& f, const LayerWeights& w, const float* dy, float* d_activated);
// dx = d_gate_up gate_up_weight.
void ffn_up_input(const FfnCall& f, const LayerWeights& w, const float* d_gate_up, float* dx);
// Both weight gradients are added to.
struct FfnWeightInputs {
  const float* x = nullptr;
  const float* d_gate_up = nullptr;
  const float* activated = nullptr;
  const float* dy = nullptr;
};
void ffn_weight(const FfnCall& f, const LayerWeights& w, const FfnWeightInputs& in);

// The activation, of rows weighted or, with null, not: gate_up -> activated; and its gradients,
// d_activated -> d_gate_up and, of weighted rows, d_row_weights [rows, 1].
void activate(const LayerContext& c, int64_t width, const float* row_weights, FfnActivations& a);
void activate_input(const LayerContext& c,
                    const Tensor& d_activated,
                    const float* row_weights,
                    FfnActivations& a,
                    float* d_row_weights);

// The whole network for rows that share one set of weights: x [rows, hidden] -> y, FP32.
void ffn_forward(const LayerContext& c,
                 const FfnCall& f,
                 const LayerWeights& w,
                 const float* x,
                 FfnActivations& a,
                 float* y);
// dy -> dx, FP32.
void ffn_input(const LayerContext& c,
               const FfnCall& f,
               const LayerWeights& w,
               const float* dy,
               FfnActivations& a,
               float* dx);
// x, dy: the network's input and its output's gradient.
void ffn_weight(const LayerContext& c,
                const FfnCall& f,
                const LayerWeights& w,
                const Tensor& x,
                const Tensor& dy,
                const FfnActivations& a);

}  // namespace rehearse
