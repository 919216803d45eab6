// The ends of the model: embedding; final norm, output projection, loss.

#include "runtime/layers/activations.h"

namespace rehearse {

Tensor embedded(const LayerContext& c, const ConstArray& tokens, const ConstArray& table) {
  return c.compute.embedding(tokens, table, c.recipe.kept);
}

void embedding_weight(const LayerContext& c,
                      const ConstArray& tokens,
                      const ConstArray& dx,
                      const Array& d_table) {
  c.compute.embedding_weight(tokens, dx, d_table);
}

void head_forward(const LayerContext& c,
                  const HeadWeights& w,
                  const ConstArray& targets,
                  const Array& sum,
                  HeadActivations& a) {
  Normed n = c.compute.norm(a.x, w.weights.array(w.norm), c.model.norm_eps, c.recipe.kept);
  a.x_norm = std::move(n.y);
  a.x_inverse = std::move(n.inverse);
  a.logits = c.compute.product(a.x_norm, w.weights.array(w.projection), DType::kFp32);
  Losses l = c.compute.cross_entropy(targets, a.logits, sum);
  a.losses = std::move(l.losses);
  a.lse = std::move(l.lse);
}

Tensor head_input(const LayerContext& c,
                  const HeadWeights& w,
                  const ConstArray& targets,
                  double scale,
                  const Tensor* addend,
                  HeadActivations& a) {
  c.compute.cross_entropy_input(targets, scale, a.lse, a.logits);
  const Tensor d_x_norm = c.compute.product_input(a.logits, w.weights.array(w.projection));
  a.d_gain = c.compute.zeros(1, c.model.hidden);
  return c.kept(c.compute.norm_input({.dy = d_x_norm,
                                      .x = a.x,
                                      .gain = w.weights.array(w.norm),
                                      .inverse = a.x_inverse,
                                      .addend = addend != nullptr ? addend->array() : ConstArray(),
                                      .d_gain = a.d_gain},
                                     c.model.norm_eps));
}

void head_weight(const LayerContext& c, const HeadWeights& w, HeadActivations& a) {
  c.compute.product_weight(a.logits, a.x_norm, {}, w.gradients.array(w.projection));
  c.compute.accumulate(a.d_gain, w.gradients.array(w.norm));
}

}  // namespace rehearse
