// MLA's queries, keys and values. Source: DeepSeek-V3 technical report, equations 1-11.

#include "runtime/layers/projections.h"

namespace rehearse {

namespace {

// The positional parts of queries, and of the key that all heads share, in kv_a.
Rotation of_queries(const Architecture& m) {
  return {.heads = m.heads, .stride = m.qk_head(), .first = m.qk_nope};
}
Rotation of_key(const Architecture& m) {
  return {.heads = 1, .first = m.kv_lora};
}

// The norms of the compressions, where they are not there.
void norm_compressions(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  if (w.ids.q_a && a.q_a_norm.empty()) {
    norm(c, w, *w.ids.q_a_norm, a.q_a, a.q_a_norm, a.q_a_inverse);
  }
  if (a.kv_a_norm.empty()) norm(c, w, w.ids.kv_a_norm, a.kv_a, a.kv_a_norm, a.kv_a_inverse);
}

// Queries, keys and values from them, where they are not there.
void expand(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  if (a.q.empty()) {
    a.q = c.compute.turned(
        c.compute.product(w.ids.q_a ? a.q_a_norm : a.x_norm, w.operand(w.ids.q), DType::kFp32),
        of_queries(c.model),
        kernels::Turn::kForward,
        c.recipe.kept);
  }
  if (a.kv.empty()) {
    a.kv = c.compute.product(a.kv_a_norm, w.operand(w.ids.kv_b), c.recipe.kept);
  }
}

}  // namespace

void latent_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  if (w.ids.q_a) a.q_a = c.compute.product(a.x_norm, w.operand(*w.ids.q_a), c.recipe.kept);
  a.kv_a = c.compute.turned(c.compute.product(a.x_norm, w.operand(w.ids.kv_a), DType::kFp32),
                            of_key(c.model),
                            kernels::Turn::kForward,
                            c.recipe.kept);
  norm_compressions(c, w, a);
  expand(c, w, a);
}

// The shared key, in kv_a, is turned already, and no part of what is normed.
void latent_again(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  norm_compressions(c, w, a);
  expand(c, w, a);
}

Tensor latent_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  const GainOffsets gains(c.model);
  const auto back = [&](ParameterId gain,
                        int64_t offset,
                        const Tensor& dy,
                        const Tensor& x,
                        const Tensor& inverse) {
    const ConstArray g = w.weights.array(gain);
    return NormBack{.dy = dy,
                    .x = x,
                    .gain = g,
                    .inverse = inverse,
                    .addend = {},
                    .d_gain = gain_gradient(a, offset, g.extent.size())};
  };
  a.d_q = c.compute.turned(
      std::move(a.d_q), of_queries(c.model), kernels::Turn::kBackward, c.recipe.products.gradient);
  a.d_kv_a = c.compute.turned(
      std::move(a.d_kv_a), of_key(c.model), kernels::Turn::kBackward, DType::kFp32);
  a.d_kv = c.gradient(std::move(a.d_kv));
  const Tensor d_kv_a_norm = c.compute.product_input(a.d_kv, w.operand(ids.kv_b));
  c.compute.norm_input_into(back(ids.kv_a_norm, gains.key, d_kv_a_norm, a.kv_a, a.kv_a_inverse),
                            c.model.norm_eps,
                            a.d_kv_a);
  a.d_kv_a = c.gradient(std::move(a.d_kv_a));
  Tensor d_x_norm = c.compute.product_input(a.d_kv_a, w.operand(ids.kv_a));
  if (!ids.q_a) {
    return c.compute.add_product_input(a.d_q, w.operand(ids.q), std::move(d_x_norm));
  }
  const Tensor d_q_a_norm = c.compute.product_input(a.d_q, w.operand(ids.q));
  a.d_q_a = c.gradient(c.compute.norm_input(
      back(*ids.q_a_norm, gains.query, d_q_a_norm, a.q_a, a.q_a_inverse), c.model.norm_eps));
  return c.compute.add_product_input(a.d_q_a, w.operand(*ids.q_a), std::move(d_x_norm));
}

void latent_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  const GainOffsets gains(c.model);
  const auto product = [&](const Tensor& dy, const Tensor& x, ParameterId id) {
    const ProductFormats& p = c.recipe.products;
    c.compute.product_weight(
        dy, x, c.recipe.along_tokens(p.gradient, p.activation), w.gradients.array(id));
  };
  product(a.d_kv, a.kv_a_norm, ids.kv_b);
  add_gain(c, w, a, ids.kv_a_norm, gains.key);
  product(a.d_kv_a, a.x_norm, ids.kv_a);
  product(a.d_q, ids.q_a ? a.q_a_norm : a.x_norm, ids.q);
  if (!ids.q_a) return;
  add_gain(c, w, a, *ids.q_a_norm, gains.query);
  product(a.d_q_a, a.x_norm, *ids.q_a);
}

}  // namespace rehearse
