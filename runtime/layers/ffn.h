#pragma once
// A gated feed-forward network, down(SwiGLU(gate_up(x))), whose rows share one set of weights: of
// dense layers and of shared experts. Routed experts' are in moe.cpp.

#include "runtime/layers/activations.h"

namespace rehearse {

// Returns y + addend, [rows, hidden].
Tensor ffn_forward(const LayerContext& c,
                   const FfnIds& ids,
                   const LayerWeights& w,
                   const ConstArray& x,
                   const ConstArray& addend,
                   FfnActivations& a);
// dy -> returns dx.
Tensor ffn_input(const LayerContext& c,
                 const FfnIds& ids,
                 const LayerWeights& w,
                 const Tensor& dy,
                 FfnActivations& a);
// x, dy: the network's input, as its product took it, and its output's gradient.
void ffn_weight(const LayerContext& c,
                const FfnIds& ids,
                const LayerWeights& w,
                const ConstArray& x,
                const Tensor& dy,
                const FfnActivations& a);

}  // namespace rehearse
