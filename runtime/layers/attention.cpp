// The attention half of a layer: norm, MLA, residual, norm and, in a MoE layer, the gate.
// Source: DeepSeek-V3 technical report, equations 1-11 (MLA) and 12-16 (gate).

#include <algorithm>

#include "kernels/add/add.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "plan/routing/counts.h"
#include "runtime/layers/activations.h"

namespace rehearse {

using kernels::MatmulShape;
using kernels::Store;

kernels::AttentionShape LayerContext::attention_shape() const {
  return {.sequences = sequences,
          .length = length,
          .heads = model.heads,
          .qk_nope = model.qk_nope,
          .qk_rope = model.qk_rope,
          .v_head = model.v_head,
          .k_rope_stride = model.kv_lora + model.qk_rope,
          .softmax_factor = softmax_factor};
}

kernels::GateShape LayerContext::gate_shape() const {
  return {.tokens = tokens(),
          .experts = model.experts,
          .active = model.active_experts,
          .groups = model.groups,
          .kept_groups = model.kept_groups,
          .sigmoid = model.score == ScoreFunction::kSigmoid,
          .normalize = model.normalize_weights,
          .scaling = model.routed_scaling};
}

namespace {

// The widths that both directions use.
struct Widths {
  explicit Widths(const LayerContext& c)
      : t(c.tokens()),
        hidden(c.model.hidden),
        q_in(c.model.q_lora.value_or(c.model.hidden)),
        q(c.model.heads * c.model.qk_head()),
        kv_lora(c.model.kv_lora),
        kv_a(c.model.kv_lora + c.model.qk_rope),
        kv(c.model.heads * (c.model.qk_nope + c.model.v_head)),
        o(c.model.heads * c.model.v_head) {}
  int64_t t, hidden, q_in, q, kv_lora, kv_a, kv, o;

  MatmulShape q_a_product() const { return {.m = t, .n = q_in, .k = hidden}; }
  MatmulShape q_product() const { return {.m = t, .n = q, .k = q_in}; }
  MatmulShape kv_a_product() const { return {.m = t, .n = kv_a, .k = hidden}; }
  MatmulShape kv_b_product() const { return {.m = t, .n = kv, .k = kv_lora}; }
  MatmulShape o_product() const { return {.m = t, .n = hidden, .k = o}; }
};

kernels::RmsNormShape norm_shape(const LayerContext& c, int64_t width, int64_t stride) {
  return {.rows = c.tokens(), .width = width, .x_stride = stride, .eps = c.model.norm_eps};
}

void norm(const LayerContext& c,
          const LayerWeights& w,
          ParameterId gain,
          const Tensor& x,
          int64_t width,
          Tensor& y,
          Tensor& inverse) {
  y = c.tensor(width);
  inverse = c.tensor(1);
  kernels::rmsnorm(
      norm_shape(c, width, x.columns()), x.data(), w.weights.of(gain), y.data(), inverse.data());
}

// Rotates the positional parts of queries and of the shared key, or their gradients back.
void rotate(const LayerContext& c, kernels::Turn turn, Tensor& q, Tensor& kv_a) {
  const Architecture& m = c.model;
  kernels::rope({.rows = c.tokens(),
                 .heads = m.heads,
                 .row_stride = m.heads * m.qk_head(),
                 .head_stride = m.qk_head()},
                c.rope,
                turn,
                q.data() + m.qk_nope);
  kernels::rope({.rows = c.tokens(), .heads = 1, .row_stride = m.kv_lora + m.qk_rope},
                c.rope,
                turn,
                kv_a.data() + m.kv_lora);
}

// Where each norm's gain gradient stands in d_gains.
struct GainOffsets {
  explicit GainOffsets(const Architecture& m)
      : q_a(m.hidden),
        kv_a(q_a + m.q_lora.value_or(0)),
        post(kv_a + m.kv_lora),
        size(post + m.hidden) {}
  int64_t input = 0, q_a, kv_a, post, size;
};

// Replaces the gate's choices; the weights are those of the experts then chosen.
void force_balanced_choice(const LayerContext& c, LayerActivations& a) {
  const Architecture& m = c.model;
  for (int64_t t = 0; t < c.tokens(); ++t) {
    const auto chosen = std::span(a.chosen).subspan(static_cast<size_t>(t * m.active_experts),
                                                    static_cast<size_t>(m.active_experts));
    balanced_choice(m, t, chosen);
    const float* scores = a.scores.data() + t * m.experts;
    float sum = 0;
    for (const int32_t e : chosen) sum += scores[e];
    const float factor = static_cast<float>(m.routed_scaling) / (m.normalize_weights ? sum : 1.0f);
    for (size_t k = 0; k < chosen.size(); ++k) {
      a.weights.data()[t * m.active_experts + static_cast<int64_t>(k)] = scores[chosen[k]] * factor;
    }
  }
}

void gate_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Architecture& m = c.model;
  Tensor logits = c.tensor(m.experts);
  kernels::matmul({.m = c.tokens(), .n = m.experts, .k = m.hidden},
                  a.h_norm.data(),
                  w.weights.of(*w.ids.gate),
                  logits.data());
  a.scores = c.tensor(m.experts);
  a.weights = c.tensor(m.active_experts);
  a.chosen.resize(static_cast<size_t>(c.tokens() * m.active_experts));
  kernels::gate(c.gate_shape(),
                logits.data(),
                w.expert_bias,
                a.scores.data(),
                a.chosen.data(),
                a.weights.data());
  if (c.routing == Routing::kBalanced) force_balanced_choice(c, a);
}

void gate_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Architecture& m = c.model;
  a.d_logits = c.tensor(m.experts);
  kernels::gate_backward(c.gate_shape(),
                         {.length = c.length, .coefficient = c.balance_coefficient},
                         a.d_weights.data(),
                         a.scores.data(),
                         a.chosen.data(),
                         a.d_logits.data());
  kernels::matmul_grad_input({.m = c.tokens(), .n = m.experts, .k = m.hidden},
                             a.d_logits.data(),
                             w.weights.of(*w.ids.gate),
                             a.d_h_norm.data(),
                             Store::kAccumulate);
}

}  // namespace

void attention_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Widths s(c);
  const LayerIds& ids = w.ids;
  norm(c, w, ids.input_norm, a.x, s.hidden, a.x_norm, a.x_inverse);
  const Tensor* q_in = &a.x_norm;
  if (ids.q_a) {
    a.q_a = c.tensor(s.q_in);
    kernels::matmul(s.q_a_product(), a.x_norm.data(), w.weights.of(*ids.q_a), a.q_a.data());
    norm(c, w, *ids.q_a_norm, a.q_a, s.q_in, a.q_a_norm, a.q_a_inverse);
    q_in = &a.q_a_norm;
  }
  a.q = c.tensor(s.q);
  kernels::matmul(s.q_product(), q_in->data(), w.weights.of(ids.q), a.q.data());
  a.kv_a = c.tensor(s.kv_a);
  kernels::matmul(s.kv_a_product(), a.x_norm.data(), w.weights.of(ids.kv_a), a.kv_a.data());
  norm(c, w, ids.kv_a_norm, a.kv_a, s.kv_lora, a.kv_a_norm, a.kv_a_inverse);
  a.kv = c.tensor(s.kv);
  kernels::matmul(s.kv_b_product(), a.kv_a_norm.data(), w.weights.of(ids.kv_b), a.kv.data());
  rotate(c, kernels::Turn::kForward, a.q, a.kv_a);
  a.o = c.tensor(s.o);
  a.lse = c.tensor(c.model.heads);
  kernels::attention(c.attention_shape(),
                     a.q.data(),
                     a.kv.data(),
                     a.kv_a.data() + s.kv_lora,
                     a.o.data(),
                     a.lse.data());
  a.h = c.tensor(s.hidden);
  kernels::matmul(s.o_product(), a.o.data(), w.weights.of(ids.o), a.h.data());
  kernels::add(a.h.size(), a.h.data(), a.x.data(), a.h.data());
  norm(c, w, ids.post_norm, a.h, s.hidden, a.h_norm, a.h_inverse);
  if (ids.gate) gate_forward(c, w, a);
}

Tensor attention_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Widths s(c);
  const LayerIds& ids = w.ids;
  const GainOffsets gains(c.model);
  a.d_gains = Tensor(c.pool, 1, gains.size);
  a.d_gains.fill(0);
  if (ids.gate) gate_input(c, w, a);

  a.d_h = c.tensor(s.hidden);
  kernels::rmsnorm_backward(norm_shape(c, s.hidden, s.hidden),
                            a.d_h_norm.data(),
                            a.h.data(),
                            w.weights.of(ids.post_norm),
                            a.h_inverse.data(),
                            a.d_out.data(),
                            a.d_h.data(),
                            a.d_gains.data() + gains.post);
  Tensor d_o = c.tensor(s.o);
  kernels::matmul_grad_input(
      s.o_product(), a.d_h.data(), w.weights.of(ids.o), d_o.data(), Store::kOverwrite);

  a.d_q = c.tensor(s.q);
  a.d_kv = c.tensor(s.kv);
  a.d_kv_a = c.tensor(s.kv_a);
  kernels::attention_backward(
      c.attention_shape(),
      d_o.data(),
      a.q.data(),
      a.kv.data(),
      a.kv_a.data() + s.kv_lora,
      a.o.data(),
      a.lse.data(),
      {.dq = a.d_q.data(), .dkv = a.d_kv.data(), .dk_rope = a.d_kv_a.data() + s.kv_lora});
  rotate(c, kernels::Turn::kBackward, a.d_q, a.d_kv_a);

  Tensor d_kv_a_norm = c.tensor(s.kv_lora);
  kernels::matmul_grad_input(s.kv_b_product(),
                             a.d_kv.data(),
                             w.weights.of(ids.kv_b),
                             d_kv_a_norm.data(),
                             Store::kOverwrite);
  kernels::rmsnorm_backward(norm_shape(c, s.kv_lora, s.kv_a),
                            d_kv_a_norm.data(),
                            a.kv_a.data(),
                            w.weights.of(ids.kv_a_norm),
                            a.kv_a_inverse.data(),
                            nullptr,
                            a.d_kv_a.data(),
                            a.d_gains.data() + gains.kv_a);
  Tensor d_x_norm = c.tensor(s.hidden);
  kernels::matmul_grad_input(s.kv_a_product(),
                             a.d_kv_a.data(),
                             w.weights.of(ids.kv_a),
                             d_x_norm.data(),
                             Store::kOverwrite);
  if (ids.q_a) {
    Tensor d_q_a_norm = c.tensor(s.q_in);
    kernels::matmul_grad_input(
        s.q_product(), a.d_q.data(), w.weights.of(ids.q), d_q_a_norm.data(), Store::kOverwrite);
    a.d_q_a = c.tensor(s.q_in);
    kernels::rmsnorm_backward(norm_shape(c, s.q_in, s.q_in),
                              d_q_a_norm.data(),
                              a.q_a.data(),
                              w.weights.of(*ids.q_a_norm),
                              a.q_a_inverse.data(),
                              nullptr,
                              a.d_q_a.data(),
                              a.d_gains.data() + gains.q_a);
    kernels::matmul_grad_input(s.q_a_product(),
                               a.d_q_a.data(),
                               w.weights.of(*ids.q_a),
                               d_x_norm.data(),
                               Store::kAccumulate);
  } else {
    kernels::matmul_grad_input(
        s.q_product(), a.d_q.data(), w.weights.of(ids.q), d_x_norm.data(), Store::kAccumulate);
  }
  Tensor dx = c.tensor(s.hidden);
  kernels::rmsnorm_backward(norm_shape(c, s.hidden, s.hidden),
                            d_x_norm.data(),
                            a.x.data(),
                            w.weights.of(ids.input_norm),
                            a.x_inverse.data(),
                            a.d_h.data(),
                            dx.data(),
                            a.d_gains.data() + gains.input);
  return dx;
}

void attention_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Widths s(c);
  const LayerIds& ids = w.ids;
  const GainOffsets gains(c.model);
  const auto accumulate = [&](ParameterId gain, int64_t offset, int64_t width) {
    float* g = w.gradients.of(gain);
    kernels::add(width, g, a.d_gains.data() + offset, g);
  };
  const auto product =
      [&](const MatmulShape& shape, const Tensor& dy, const Tensor& x, ParameterId id) {
        kernels::matmul_grad_weight(shape, dy.data(), x.data(), w.gradients.of(id));
      };
  if (ids.gate) {
    product({.m = s.t, .n = c.model.experts, .k = s.hidden}, a.d_logits, a.h_norm, *ids.gate);
  }
  accumulate(ids.post_norm, gains.post, s.hidden);
  product(s.o_product(), a.d_h, a.o, ids.o);
  product(s.kv_b_product(), a.d_kv, a.kv_a_norm, ids.kv_b);
  accumulate(ids.kv_a_norm, gains.kv_a, s.kv_lora);
  product(s.kv_a_product(), a.d_kv_a, a.x_norm, ids.kv_a);
  product(s.q_product(), a.d_q, ids.q_a ? a.q_a_norm : a.x_norm, ids.q);
  if (ids.q_a) {
    accumulate(*ids.q_a_norm, gains.q_a, s.q_in);
    product(s.q_a_product(), a.d_q_a, a.x_norm, *ids.q_a);
  }
  accumulate(ids.input_norm, gains.input, s.hidden);
}

}  // namespace rehearse
