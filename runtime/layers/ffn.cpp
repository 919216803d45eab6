#include "runtime/layers/ffn.h"

namespace rehearse {

Tensor ffn_forward(const LayerContext& c,
                   const FfnIds& ids,
                   const LayerWeights& w,
                   const ConstArray& x,
                   const ConstArray& addend,
                   FfnActivations& a) {
  a.gate_up = c.compute.product(x, w.operand(ids.gate_up), c.recipe.kept);
  a.activated = c.compute.swiglu(a.gate_up, nullptr, c.recipe.products.activation);
  a.gate_up = c.compute.in_type(std::move(a.gate_up), c.recipe.swiglu_inputs);
  Tensor y = c.compute.product(a.activated, w.operand(ids.down), c.recipe.kept, addend);
  if (c.again.activations) a.activated.release();
  return y;
}

Tensor ffn_input(const LayerContext& c,
                 const FfnIds& ids,
                 const LayerWeights& w,
                 const Tensor& dy,
                 FfnActivations& a) {
  const ProductFormats& products = c.recipe.products;
  if (a.activated.empty()) {
    a.activated = c.compute.swiglu(a.gate_up, nullptr, products.activation);
  }
  const Tensor d_activated =
      c.compute.product_input(c.as(dy, products.gradient), w.operand(ids.down));
  a.d_gate_up =
      c.compute.swiglu_input(d_activated, a.gate_up, nullptr, products.gradient).d_gate_up;
  return c.kept(c.compute.product_input(a.d_gate_up, w.operand(ids.gate_up)));
}

void ffn_weight(const LayerContext& c,
                const FfnIds& ids,
                const LayerWeights& w,
                const ConstArray& x,
                const Tensor& dy,
                const FfnActivations& a) {
  const ProductFormats& products = c.recipe.products;
  const AlongTokens rounded = c.recipe.along_tokens(products.gradient, products.activation);
  c.compute.product_weight(dy, a.activated, rounded, w.gradients.array(ids.down));
  c.compute.product_weight(a.d_gate_up, x, rounded, w.gradients.array(ids.gate_up));
}

}  // namespace rehearse
