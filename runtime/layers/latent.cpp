// MLA's queries, keys and values. Source: DeepSeek-V3 technical report, equations 1-11.

#include "kernels/rmsnorm/rmsnorm.h"
#include "runtime/layers/projections.h"

namespace rehearse {

using kernels::MatmulShape;
using kernels::Store;

namespace {

// The widths that all passes use.
struct LatentWidths {
  explicit LatentWidths(const LayerContext& c)
      : t(c.tokens()),
        hidden(c.model.hidden),
        q_in(c.model.q_lora.value_or(c.model.hidden)),
        q(c.model.heads * c.model.qk_head()),
        kv_lora(c.model.kv_lora),
        kv_a(c.model.kv_lora + c.model.qk_rope),
        kv(c.model.heads * (c.model.qk_nope + c.model.v_head)) {}
  int64_t t, hidden, q_in, q, kv_lora, kv_a, kv;

  MatmulShape q_a_product() const { return {.m = t, .n = q_in, .k = hidden}; }
  MatmulShape q_product() const { return {.m = t, .n = q, .k = q_in}; }
  MatmulShape kv_a_product() const { return {.m = t, .n = kv_a, .k = hidden}; }
  MatmulShape kv_b_product() const { return {.m = t, .n = kv, .k = kv_lora}; }
};

// Rotates the positional parts of queries, or their gradients back; and of the key all heads share.
void rotate_queries(const LayerContext& c, kernels::Turn turn, Tensor& q) {
  const Architecture& m = c.model;
  kernels::rope({.rows = c.tokens(),
                 .heads = m.heads,
                 .row_stride = m.heads * m.qk_head(),
                 .head_stride = m.qk_head()},
                c.rope,
                turn,
                q.data() + m.qk_nope);
}
void rotate_key(const LayerContext& c, kernels::Turn turn, Tensor& kv_a) {
  const Architecture& m = c.model;
  kernels::rope({.rows = c.tokens(), .heads = 1, .row_stride = m.kv_lora + m.qk_rope},
                c.rope,
                turn,
                kv_a.data() + m.kv_lora);
}

// The norms of the compressions, where they are not there.
void norm_compressions(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  if (w.ids.q_a && a.q_a_norm.empty()) {
    norm(c, w, *w.ids.q_a_norm, a.q_a, *c.model.q_lora, a.q_a_norm, a.q_a_inverse);
  }
  if (a.kv_a_norm.empty()) {
    norm(c, w, w.ids.kv_a_norm, a.kv_a, c.model.kv_lora, a.kv_a_norm, a.kv_a_inverse);
  }
}

// Queries, keys and values from them, where they are not there.
void expand(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LatentWidths s(c);
  if (a.q.empty()) {
    a.q = c.tensor(s.q);
    const Tensor& q_in = w.ids.q_a ? a.q_a_norm : a.x_norm;
    kernels::matmul(s.q_product(), c.fp32(q_in), w.weights.matrix(w.ids.q), a.q.data());
    rotate_queries(c, kernels::Turn::kForward, a.q);
    c.keep(a.q);
  }
  if (a.kv.empty()) {
    a.kv = c.tensor(s.kv);
    kernels::matmul(
        s.kv_b_product(), c.fp32(a.kv_a_norm), w.weights.matrix(w.ids.kv_b), a.kv.data());
    c.keep(a.kv);
  }
}

}  // namespace

void latent_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LatentWidths s(c);
  if (w.ids.q_a) {
    a.q_a = c.tensor(s.q_in);
    kernels::matmul(s.q_a_product(), c.fp32(a.x_norm), w.weights.matrix(*w.ids.q_a), a.q_a.data());
    c.keep(a.q_a);
  }
  a.kv_a = c.tensor(s.kv_a);
  kernels::matmul(s.kv_a_product(), c.fp32(a.x_norm), w.weights.matrix(w.ids.kv_a), a.kv_a.data());
  rotate_key(c, kernels::Turn::kForward, a.kv_a);
  c.keep(a.kv_a);
  norm_compressions(c, w, a);
  expand(c, w, a);
}

// The shared key, in kv_a, is turned already, and no part of what is normed.
void latent_again(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  norm_compressions(c, w, a);
  expand(c, w, a);
}

Tensor latent_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LatentWidths s(c);
  const LayerIds& ids = w.ids;
  const GainOffsets gains(c.model);
  rotate_queries(c, kernels::Turn::kBackward, a.d_q);
  rotate_key(c, kernels::Turn::kBackward, a.d_kv_a);
  c.keep(a.d_q);
  c.keep(a.d_kv);
  Tensor d_kv_a_norm = c.tensor(s.kv_lora);
  kernels::matmul_grad_input(s.kv_b_product(),
                             c.fp32(a.d_kv),
                             w.weights.matrix(ids.kv_b),
                             d_kv_a_norm.data(),
                             Store::kOverwrite);
  kernels::rmsnorm_backward(norm_shape(c, s.kv_lora, s.kv_a),
                            d_kv_a_norm.data(),
                            c.fp32(a.kv_a),
                            c.fp32(w.weights.array(ids.kv_a_norm)),
                            a.kv_a_inverse.data(),
                            nullptr,
                            a.d_kv_a.data(),
                            a.d_gains.data() + gains.key);
  c.keep(a.d_kv_a);
  Tensor d_x_norm = c.tensor(s.hidden);
  kernels::matmul_grad_input(s.kv_a_product(),
                             c.fp32(a.d_kv_a),
                             w.weights.matrix(ids.kv_a),
                             d_x_norm.data(),
                             Store::kOverwrite);
  if (!ids.q_a) {
    kernels::matmul_grad_input(
        s.q_product(), c.fp32(a.d_q), w.weights.matrix(ids.q), d_x_norm.data(), Store::kAccumulate);
    return d_x_norm;
  }
  Tensor d_q_a_norm = c.tensor(s.q_in);
  kernels::matmul_grad_input(
      s.q_product(), c.fp32(a.d_q), w.weights.matrix(ids.q), d_q_a_norm.data(), Store::kOverwrite);
  a.d_q_a = c.tensor(s.q_in);
  kernels::rmsnorm_backward(norm_shape(c, s.q_in, s.q_in),
                            d_q_a_norm.data(),
                            c.fp32(a.q_a),
                            c.fp32(w.weights.array(*ids.q_a_norm)),
                            a.q_a_inverse.data(),
                            nullptr,
                            a.d_q_a.data(),
                            a.d_gains.data() + gains.query);
  c.keep(a.d_q_a);
  kernels::matmul_grad_input(s.q_a_product(),
                             c.fp32(a.d_q_a),
                             w.weights.matrix(*ids.q_a),
                             d_x_norm.data(),
                             Store::kAccumulate);
  return d_x_norm;
}

void latent_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LatentWidths s(c);
  const LayerIds& ids = w.ids;
  const GainOffsets gains(c.model);
  const auto product =
      [&](const MatmulShape& shape, const Tensor& dy, const Tensor& x, ParameterId id) {
        kernels::matmul_grad_weight(shape, c.fp32(dy), c.fp32(x), w.gradients.of(id));
      };
  product(s.kv_b_product(), a.d_kv, a.kv_a_norm, ids.kv_b);
  add_gain(w, a, ids.kv_a_norm, gains.key, s.kv_lora);
  product(s.kv_a_product(), a.d_kv_a, a.x_norm, ids.kv_a);
  product(s.q_product(), a.d_q, ids.q_a ? a.q_a_norm : a.x_norm, ids.q);
  if (!ids.q_a) return;
  add_gain(w, a, *ids.q_a_norm, gains.query, s.q_in);
  product(s.q_a_product(), a.d_q_a, a.x_norm, *ids.q_a);
}

}  // namespace rehearse
