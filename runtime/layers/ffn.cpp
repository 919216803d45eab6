#include "runtime/layers/ffn.h"

namespace rehearse {

Tensor ffn_forward(const LayerContext& c,
                   const FfnIds& ids,
                   const LayerWeights& w,
                   const Tensor& x,
                   const ConstArray& addend,
                   FfnActivations& a) {
  a.gate_up = c.compute.product(x, w.weights.array(ids.gate_up), c.recipe.kept);
  a.activated = c.compute.swiglu(a.gate_up, nullptr, c.recipe.kept);
  Tensor y = c.compute.product(a.activated, w.weights.array(ids.down), c.recipe.kept, addend);
  if (c.again.activations) a.activated.release();
  return y;
}

Tensor ffn_input(const LayerContext& c,
                 const FfnIds& ids,
                 const LayerWeights& w,
                 const Tensor& dy,
                 FfnActivations& a) {
  if (a.activated.empty()) a.activated = c.compute.swiglu(a.gate_up, nullptr, c.recipe.kept);
  const Tensor d_activated = c.compute.product_input(dy, w.weights.array(ids.down));
  a.d_gate_up = c.compute.swiglu_input(d_activated, a.gate_up, nullptr, c.recipe.kept).d_gate_up;
  return c.kept(c.compute.product_input(a.d_gate_up, w.weights.array(ids.gate_up)));
}

void ffn_weight(const LayerContext& c,
                const FfnIds& ids,
                const LayerWeights& w,
                const Tensor& x,
                const Tensor& dy,
                const FfnActivations& a) {
  c.compute.product_weight(dy, a.activated, w.gradients.array(ids.down));
  c.compute.product_weight(a.d_gate_up, x, w.gradients.array(ids.gate_up));
}

}  // namespace rehearse
