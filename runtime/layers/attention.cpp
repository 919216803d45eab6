// The attention half of a layer: norm, attention, residual, norm and, in a MoE layer, the gate.
// Source: DeepSeek-V3 technical report, equations 1-11 (MLA) and 12-16 (gate).

#include "runtime/layers/projections.h"

namespace rehearse {

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

LayerContext::Operand LayerContext::as(const Tensor& x, const Encoding& type) const {
  if (x.type() == type.type) return Operand(x);
  Tensor own = compute.make(x.rows(), x.columns(), type.type);
  compute.encode(x, own, type.scales);
  return Operand(std::move(own));
}

void norm(const LayerContext& c,
          const LayerWeights& w,
          ParameterId gain,
          const Tensor& x,
          Tensor& y,
          Tensor& inverse) {
  Normed n =
      c.compute.norm(x, w.weights.array(gain), c.model.norm_eps, c.recipe.products.activation);
  y = std::move(n.y);
  inverse = std::move(n.inverse);
}

Array gain_gradient(LayerActivations& a, int64_t offset, int64_t count) {
  return part_of(a.d_gains.array(), offset, count);
}

void add_gain(const LayerContext& c,
              const LayerWeights& w,
              LayerActivations& a,
              ParameterId gain,
              int64_t offset) {
  const Array gradient = w.gradients.array(gain);
  c.compute.accumulate(gain_gradient(a, offset, gradient.extent.size()), gradient);
}

namespace {

// h_norm: the router takes it as it is kept, and it is made an operand where it is sent and
// multiplied; without one a product alone takes it.
void post_norm(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const PrecisionRecipe& r = c.recipe;
  Normed n = c.compute.norm(a.h,
                            w.weights.array(w.ids.post_norm),
                            c.model.norm_eps,
                            w.ids.gate ? Encoding(r.kept) : r.products.activation);
  a.h_norm = std::move(n.y);
  a.h_inverse = std::move(n.inverse);
}

AttentionOperands operands(const LayerContext& c, const LayerActivations& a) {
  return {.q = a.q,
          .kv = a.kv,
          .shared = c.latent() ? ConstArray(a.kv_a) : ConstArray(),
          .shared_first = c.model.kv_lora};
}

void gate_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  Gated g = c.compute.gate(c.gate_shape(),
                           c.compute.product(a.h_norm, w.weights.array(*w.ids.gate), DType::kFp32),
                           w.expert_bias);
  if (c.routing == Routing::kBalanced) {
    c.compute.force_balanced(c.model, c.gate_shape(), g.scores, g.weights, g.chosen);
  }
  a.scores = std::move(g.scores);
  a.weights = std::move(g.weights);
  a.chosen = std::move(g.chosen);
}

void gate_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  a.d_logits =
      c.compute.gate_input(c.gate_shape(),
                           {.length = c.balance_length, .coefficient = c.balance_coefficient},
                           a.d_weights,
                           a.scores,
                           a.chosen);
  a.d_h_norm =
      c.compute.add_product_input(a.d_logits, w.weights.array(*w.ids.gate), std::move(a.d_h_norm));
}

}  // namespace

void attention_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  norm(c, w, ids.input_norm, a.x, a.x_norm, a.x_inverse);
  c.latent() ? latent_forward(c, w, a) : grouped_forward(c, w, a);
  Attended attended = c.compute.attention(c.attention_shape(), operands(c, a), c.recipe.kept);
  a.lse = std::move(attended.lse);
  a.h = c.compute.product(
      c.as(attended.o, c.recipe.products.activation), w.operand(ids.o), c.recipe.kept, a.x);
  a.o = c.compute.in_type(std::move(attended.o), c.recipe.attention_output);
  post_norm(c, w, a);
  if (ids.gate) gate_forward(c, w, a);
  if (c.again.norms) {
    for (Tensor* normed : {&a.x_norm, &a.q_a_norm, &a.kv_a_norm}) normed->release();
  }
  if (c.again.up_projections && c.latent()) {
    a.q.release();
    a.kv.release();
  }
}

void post_norm_again(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  if (a.h_norm.empty()) post_norm(c, w, a);
}

Tensor attention_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  const int64_t hidden = c.model.hidden;
  const GainOffsets gains(c.model);
  if (a.x_norm.empty()) norm(c, w, ids.input_norm, a.x, a.x_norm, a.x_inverse);
  if (c.latent()) latent_again(c, w, a);
  a.d_gains = c.compute.zeros(1, gains.size);
  if (ids.gate) gate_input(c, w, a);

  a.d_h = c.compute.norm_input({.dy = a.d_h_norm,
                                .x = a.h,
                                .gain = w.weights.array(ids.post_norm),
                                .inverse = a.h_inverse,
                                .addend = a.d_out,
                                .d_gain = gain_gradient(a, gains.post, hidden)},
                               c.model.norm_eps);
  a.d_h_norm.release();
  a.d_h = c.kept(std::move(a.d_h));
  const Tensor d_o =
      c.compute.product_input(c.as(a.d_h, c.recipe.products.gradient), w.operand(ids.o));
  AttentionBack back =
      c.compute.attention_input(c.attention_shape(), d_o, operands(c, a), a.o, a.lse);
  a.d_q = std::move(back.dq);
  a.d_kv = std::move(back.dkv);
  a.d_kv_a = std::move(back.d_shared);
  const Tensor d_x_norm = c.latent() ? latent_input(c, w, a) : grouped_input(c, w, a);
  return c.kept(c.compute.norm_input({.dy = d_x_norm,
                                      .x = a.x,
                                      .gain = w.weights.array(ids.input_norm),
                                      .inverse = a.x_inverse,
                                      .addend = a.d_h,
                                      .d_gain = gain_gradient(a, gains.input, hidden)},
                                     c.model.norm_eps));
}

void attention_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const LayerIds& ids = w.ids;
  const GainOffsets gains(c.model);
  if (ids.gate) c.compute.product_weight(a.d_logits, a.h_norm, {}, w.gradients.array(*ids.gate));
  add_gain(c, w, a, ids.post_norm, gains.post);
  c.compute.product_weight(
      a.d_h,
      a.o,
      c.recipe.along_tokens(c.recipe.products.gradient, c.recipe.attention_output),
      w.gradients.array(ids.o));
  c.latent() ? latent_weight(c, w, a) : grouped_weight(c, w, a);
  add_gain(c, w, a, ids.input_norm, gains.input);
}

}  // namespace rehearse
