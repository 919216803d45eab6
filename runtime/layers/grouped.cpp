// Queries, keys and values of grouped-query attention: one product, norms of heads where the model
// has them, rotation of each head's first part. Source: Ainslie et al. 2023 (arXiv 2305.13245); the
// order and the rotation's pairs are those of Hugging Face's classes.

#include "runtime/layers/projections.h"

namespace rehearse {

namespace {

HeadsShape heads_of(const Architecture& m) {
  return {.heads = m.heads, .kv_heads = m.kv_heads, .qk = m.qk_head(), .v = m.v_head};
}

// Turns the first part of every head: of queries, and of keys beside their values.
Tensor turned_queries(const LayerContext& c, kernels::Turn turn, Tensor q, DType type) {
  const HeadsShape s = heads_of(c.model);
  if (c.model.qk_rope == 0) return c.compute.in_type(std::move(q), type);
  return c.compute.turned(std::move(q),
                          {.heads = s.heads, .stride = s.qk, .pairs = kernels::RopePairs::kHalves},
                          turn,
                          type);
}
Tensor turned_keys(const LayerContext& c, kernels::Turn turn, Tensor kv, DType type) {
  const HeadsShape s = heads_of(c.model);
  if (c.model.qk_rope == 0) return c.compute.in_type(std::move(kv), type);
  return c.compute.turned(
      std::move(kv),
      {.heads = s.kv_heads, .stride = s.qk + s.v, .pairs = kernels::RopePairs::kHalves},
      turn,
      type);
}

// Heads of tokens as rows that a norm of them takes: one each, or all of a token's.
ConstArray norm_rows(const LayerContext& c, const ConstArray& x) {
  const int64_t width =
      c.model.head_norm == HeadNorm::kWhole ? x.extent.columns : c.model.qk_head();
  return reshaped(x, x.extent.size() / width, width);
}

Tensor normed_heads(const LayerContext& c,
                    const LayerWeights& w,
                    ParameterId gain,
                    const Tensor& x,
                    Tensor& inverse) {
  Normed n = c.compute.norm(norm_rows(c, x), w.weights.array(gain), c.model.norm_eps, DType::kFp32);
  inverse = std::move(n.inverse);
  n.y.reshape(x.rows(), x.columns());
  return std::move(n.y);
}

Tensor normed_heads_input(const LayerContext& c,
                          const LayerWeights& w,
                          LayerActivations& a,
                          ParameterId gain,
                          int64_t offset,
                          const Tensor& dy,
                          const Tensor& x,
                          const Tensor& inverse) {
  const ConstArray g = w.weights.array(gain);
  Tensor dx = c.compute.norm_input({.dy = norm_rows(c, dy),
                                    .x = norm_rows(c, x),
                                    .gain = g,
                                    .inverse = inverse,
                                    .addend = {},
                                    .d_gain = gain_gradient(a, offset, g.extent.size())},
                                   c.model.norm_eps);
  dx.reshape(dy.rows(), dy.columns());
  return dx;
}

}  // namespace

void grouped_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const HeadsShape s = heads_of(c.model);
  const bool normed = c.model.head_norm != HeadNorm::kNone;
  Split parts = c.compute.split_heads(
      s, c.compute.product(a.x_norm, w.operand(w.ids.qkv), DType::kFp32), normed);
  if (normed) {
    a.q_raw = c.kept(std::move(parts.q));
    a.k_raw = c.kept(std::move(parts.k));
    parts.q = normed_heads(c, w, *w.ids.q_head_norm, a.q_raw, a.q_a_inverse);
    c.compute.put_keys(
        s, normed_heads(c, w, *w.ids.k_head_norm, a.k_raw, a.kv_a_inverse), parts.kv);
  }
  a.q = turned_queries(c, kernels::Turn::kForward, std::move(parts.q), c.recipe.kept);
  a.kv = turned_keys(c, kernels::Turn::kForward, std::move(parts.kv), c.recipe.kept);
}

Tensor grouped_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const HeadsShape s = heads_of(c.model);
  const GainOffsets gains(c.model);
  a.d_q = turned_queries(c, kernels::Turn::kBackward, std::move(a.d_q), DType::kFp32);
  a.d_kv = turned_keys(c, kernels::Turn::kBackward, std::move(a.d_kv), DType::kFp32);
  if (c.model.head_norm != HeadNorm::kNone) {
    a.d_q =
        normed_heads_input(c, w, a, *w.ids.q_head_norm, gains.query, a.d_q, a.q_raw, a.q_a_inverse);
    const Tensor d_k = normed_heads_input(c,
                                          w,
                                          a,
                                          *w.ids.k_head_norm,
                                          gains.key,
                                          c.compute.keys_of(s, a.d_kv),
                                          a.k_raw,
                                          a.kv_a_inverse);
    c.compute.put_keys(s, d_k, a.d_kv);
  }
  a.d_qkv = c.gradient(c.compute.join_heads(s, std::move(a.d_q), std::move(a.d_kv)));
  return c.compute.product_input(a.d_qkv, w.operand(w.ids.qkv));
}

void grouped_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const ProductFormats& p = c.recipe.products;
  c.compute.product_weight(a.d_qkv,
                           a.x_norm,
                           c.recipe.along_tokens(p.gradient, p.activation),
                           w.gradients.array(w.ids.qkv));
  if (c.model.head_norm == HeadNorm::kNone) return;
  const GainOffsets gains(c.model);
  add_gain(c, w, a, *w.ids.q_head_norm, gains.query);
  add_gain(c, w, a, *w.ids.k_head_norm, gains.key);
}

}  // namespace rehearse
