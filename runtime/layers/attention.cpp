// The attention half of a layer: norm, attention, residual, norm and, in a MoE layer, the gate.
// Source: DeepSeek-V3 technical report, equations 1-11 (MLA) and 12-16 (gate).

#include <algorithm>

#include "kernels/add/add.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "plan/routing/counts.h"
#include "runtime/layers/projections.h"

namespace rehearse {

using kernels::MatmulShape;
using kernels::Store;

kernels::AttentionShape LayerContext::attention_shape() const {
  return {.sequences = sequences,
          .length = length,
          .heads = model.heads,
          .qk_nope = latent() ? model.qk_nope : model.qk_head(),
          .qk_rope = latent() ? model.qk_rope : 0,
          .v_head = model.v_head,
          .k_rope_stride = model.kv_lora + model.qk_rope,
          .softmax_factor = softmax_factor,
          .kv_heads = latent() ? 0 : model.kv_heads};
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

GainOffsets::GainOffsets(const Architecture& m) {
  int64_t of_query = m.q_lora.value_or(0);
  int64_t of_key = m.kv_lora;
  if (m.attention == AttentionKind::kGrouped) {
    const int64_t heads = m.head_norm == HeadNorm::kWhole ? m.heads : 1;
    const int64_t kv_heads = m.head_norm == HeadNorm::kWhole ? m.kv_heads : 1;
    const int64_t width = m.head_norm == HeadNorm::kNone ? 0 : m.qk_head();
    of_query = heads * width;
    of_key = kv_heads * width;
  }
  query = m.hidden;
  key = query + of_query;
  post = key + of_key;
  size = post + m.hidden;
}

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
  kernels::rmsnorm(norm_shape(c, width, x.columns()),
                   c.fp32(x),
                   c.fp32(w.weights.array(gain)),
                   y.data(),
                   inverse.data());
  c.keep(y);
}

void add_gain(const LayerWeights& w,
              const LayerActivations& a,
              ParameterId gain,
              int64_t offset,
              int64_t width) {
  float* g = w.gradients.of(gain);
  kernels::add(width, g, a.d_gains.data() + offset, g);
}

void post_norm_again(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  if (a.h_norm.empty()) norm(c, w, w.ids.post_norm, a.h, c.model.hidden, a.h_norm, a.h_inverse);
}

namespace {

MatmulShape output_product(const LayerContext& c) {
  return {.m = c.tokens(), .n = c.model.hidden, .k = c.model.heads * c.model.v_head};
}

// Of MLA: where in kv_a the key is that all heads share.
const float* shared_key(const LayerContext& c, const float* kv_a) {
  return kv_a == nullptr ? nullptr : kv_a + c.model.kv_lora;
}

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
                  c.fp32(a.h_norm),
                  w.weights.matrix(*w.ids.gate),
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
                         {.length = c.balance_length, .coefficient = c.balance_coefficient},
                         a.d_weights.data(),
                         a.scores.data(),
                         a.chosen.data(),
                         a.d_logits.data());
  c.widen(a.d_h_norm);
  kernels::matmul_grad_input({.m = c.tokens(), .n = m.experts, .k = m.hidden},
                             a.d_logits.data(),
                             w.weights.matrix(*w.ids.gate),
                             a.d_h_norm.data(),
                             Store::kAccumulate);
}

}  // namespace

void attention_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  const int64_t hidden = c.model.hidden;
  norm(c, w, ids.input_norm, a.x, hidden, a.x_norm, a.x_inverse);
  c.latent() ? latent_forward(c, w, a) : grouped_forward(c, w, a);
  a.o = c.tensor(output_product(c).k);
  a.lse = c.tensor(c.model.heads);
  kernels::attention(c.attention_shape(),
                     c.fp32(a.q),
                     c.fp32(a.kv),
                     shared_key(c, c.fp32(a.kv_a)),
                     a.o.data(),
                     a.lse.data());
  c.keep(a.o);
  a.h = c.tensor(hidden);
  kernels::matmul(output_product(c), c.fp32(a.o), w.weights.matrix(ids.o), a.h.data());
  kernels::add(a.h.size(), a.h.data(), c.fp32(a.x), a.h.data());
  c.keep(a.h);
  norm(c, w, ids.post_norm, a.h, hidden, a.h_norm, a.h_inverse);
  if (ids.gate) gate_forward(c, w, a);
  if (c.again.norms) {
    for (Tensor* normed : {&a.x_norm, &a.q_a_norm, &a.kv_a_norm}) normed->release();
  }
  if (c.again.up_projections && c.latent()) {
    a.q.release();
    a.kv.release();
  }
}

Tensor attention_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  const int64_t hidden = c.model.hidden;
  const GainOffsets gains(c.model);
  if (a.x_norm.empty()) norm(c, w, ids.input_norm, a.x, hidden, a.x_norm, a.x_inverse);
  if (c.latent()) latent_again(c, w, a);
  a.d_gains = Tensor(c.pool, 1, gains.size);
  a.d_gains.fill(0);
  if (ids.gate) gate_input(c, w, a);

  a.d_h = c.tensor(hidden);
  kernels::rmsnorm_backward(norm_shape(c, hidden, hidden),
                            c.fp32(a.d_h_norm),
                            c.fp32(a.h),
                            c.fp32(w.weights.array(ids.post_norm)),
                            a.h_inverse.data(),
                            c.fp32(a.d_out),
                            a.d_h.data(),
                            a.d_gains.data() + gains.post);
  a.d_h_norm.release();
  c.keep(a.d_h);
  Tensor d_o = c.tensor(output_product(c).k);
  kernels::matmul_grad_input(
      output_product(c), c.fp32(a.d_h), w.weights.matrix(ids.o), d_o.data(), Store::kOverwrite);

  a.d_q = c.tensor(a.q.columns());
  a.d_kv = c.tensor(a.kv.columns());
  if (c.latent()) a.d_kv_a = c.tensor(a.kv_a.columns());
  kernels::attention_backward(
      c.attention_shape(),
      d_o.data(),
      c.fp32(a.q),
      c.fp32(a.kv),
      shared_key(c, c.fp32(a.kv_a)),
      c.fp32(a.o),
      a.lse.data(),
      {.dq = a.d_q.data(),
       .dkv = a.d_kv.data(),
       .dk_rope = c.latent() ? a.d_kv_a.data() + c.model.kv_lora : nullptr});
  const Tensor d_x_norm = c.latent() ? latent_input(c, w, a) : grouped_input(c, w, a);
  Tensor dx = c.tensor(hidden);
  kernels::rmsnorm_backward(norm_shape(c, hidden, hidden),
                            d_x_norm.data(),
                            c.fp32(a.x),
                            c.fp32(w.weights.array(ids.input_norm)),
                            a.x_inverse.data(),
                            c.fp32(a.d_h),
                            dx.data(),
                            a.d_gains.data() + gains.input);
  c.keep(dx);
  return dx;
}

void attention_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  const int64_t hidden = c.model.hidden;
  const GainOffsets gains(c.model);
  if (ids.gate) {
    kernels::matmul_grad_weight({.m = c.tokens(), .n = c.model.experts, .k = hidden},
                                a.d_logits.data(),
                                c.fp32(a.h_norm),
                                w.gradients.of(*ids.gate));
  }
  add_gain(w, a, ids.post_norm, gains.post, hidden);
  kernels::matmul_grad_weight(output_product(c), c.fp32(a.d_h), c.fp32(a.o), w.gradients.of(ids.o));
  c.latent() ? latent_weight(c, w, a) : grouped_weight(c, w, a);
  add_gain(w, a, ids.input_norm, gains.input, hidden);
}

}  // namespace rehearse
