// The feed-forward half of a MoE layer: tokens to experts, the experts, and back.
// Source: DeepSeek-V3 technical report, equations 12-16.

#include "runtime/layers/ffn.h"

namespace rehearse {

namespace {

// Activations of the rows of experts, weighted.
Tensor weighted(const LayerContext& c, const LayerActivations& a) {
  const Compute::Weighted rows{a.rows, a.row_weights};
  return c.compute.swiglu(a.routed.gate_up, &rows, c.recipe.products.activation);
}

}  // namespace

void dispatch_forward(const LayerContext& c, const ExchangeOp* call, LayerActivations& a) {
  const bool in_order = c.slot_of.data == nullptr;
  const Tensor placed = in_order ? Tensor() : c.compute.slots(a.chosen, c.slot_of);
  const ConstArray slots = in_order ? a.chosen : placed;
  const LayerContext::Operand tokens = c.as(a.h_norm, c.recipe.tokens_sent);
  if (call == nullptr) {
    a.rows = c.compute.map_rows(slots, c.model.experts, c.overflowed);
    a.routed_in = c.compute.permute(a.rows, tokens);
    a.row_weights = c.compute.of_rows(a.rows, a.weights);
    return;
  }
  const Arrived arrived = c.lanes.dispatch(*call, tokens, slots, a.weights, a.routes);
  a.rows = c.compute.map_rows(arrived.slots, call->group.experts_per_member, c.overflowed);
  a.routed_in = c.compute.permute(a.rows, arrived.x);
  a.row_weights = c.compute.of_rows(a.rows, arrived.weights);
}

void experts_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const DType kept = c.recipe.kept;
  a.routed.gate_up = c.compute.grouped_product(
      a.routed_in, w.weights.operands(w.ids.experts, &FfnIds::gate_up), a.rows, kept);
  a.routed.activated = weighted(c, a);
  const ExpertRows rows = a.rows;
  a.routed.gate_up = c.compute.in_type(std::move(a.routed.gate_up), c.recipe.swiglu_inputs, &rows);
  a.routed_out = c.compute.grouped_product(
      a.routed.activated, w.weights.operands(w.ids.experts, &FfnIds::down), a.rows, kept);
  if (c.again.activations) a.routed.activated.release();
  if (!w.ids.shared) return;
  a.ffn_out =
      ffn_forward(c, *w.ids.shared, w, c.as(a.h_norm, c.recipe.products.activation), {}, a.shared);
}

Tensor combine_forward(const LayerContext& c, const ExchangeOp* call, LayerActivations& a) {
  Tensor out;
  if (call == nullptr) {
    out = c.compute.unpermute(a.rows, a.routed_out, a.h, a.ffn_out, c.recipe.kept);
  } else {
    const Tensor partial = c.compute.unpermute(a.rows, a.routed_out, {}, {}, DType::kFp32);
    out = c.compute.sum(c.lanes.reduce(*call, *a.routes, partial, c.recipe.sent, 0),
                        {a.h, a.ffn_out},
                        c.recipe.kept);
  }
  a.routed_out.release();
  a.ffn_out.release();
  if (c.again.norms) a.h_norm.release();
  return out;
}

void combine_input(const LayerContext& c, const ExchangeOp* call, LayerActivations& a) {
  const LayerContext::Operand sent = c.as(a.d_out, c.recipe.gradients_sent);
  a.d_routed_out = call == nullptr
                       ? c.compute.permute(a.rows, sent)
                       : c.compute.permute(a.rows, c.lanes.spread(*call, *a.routes, sent));
}

void experts_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const DType kept = c.recipe.kept;
  post_norm_again(c, w, a);
  if (a.routed.activated.empty()) a.routed.activated = weighted(c, a);
  const Tensor d_activated = c.compute.grouped_product_input(
      a.d_routed_out, w.weights.operands(w.ids.experts, &FfnIds::down), a.rows, DType::kFp32);
  const Compute::Weighted rows{a.rows, a.row_weights};
  SwigluBack back =
      c.compute.swiglu_input(d_activated, a.routed.gate_up, &rows, c.recipe.products.gradient);
  a.d_row_weights = std::move(back.d_row_weights);
  a.routed.d_gate_up = std::move(back.d_gate_up);
  a.d_routed_in = c.compute.grouped_product_input(
      a.routed.d_gate_up, w.weights.operands(w.ids.experts, &FfnIds::gate_up), a.rows, kept);
  // The shared experts' part of d_h_norm.
  if (w.ids.shared) a.ffn_out = ffn_input(c, *w.ids.shared, w, a.d_out, a.shared);
}

void dispatch_input(const LayerContext& c, const ExchangeOp* call, LayerActivations& a) {
  const int64_t hidden = c.model.hidden;
  const int64_t active = c.model.active_experts;
  if (call == nullptr) {
    a.d_weights = c.compute.of_choices(a.rows, a.d_row_weights);
    a.d_h_norm = c.compute.unpermute(a.rows, a.d_routed_in, a.ffn_out, {}, c.recipe.kept);
  } else {
    // One message per token: its gradient and those of its weights.
    const Tensor sums = c.compute.unpermute(a.rows, a.d_routed_in, {}, {}, DType::kFp32);
    const Tensor partial = c.compute.beside(a.rows, sums, a.d_row_weights);
    const Tensor back = c.lanes.reduce(*call, *a.routes, partial, c.recipe.sent, active);
    a.d_weights = c.compute.columns(back, {.first = hidden, .count = active});
    a.d_h_norm =
        c.compute.sum(c.compute.columns(back, {.count = hidden}), {a.ffn_out}, c.recipe.kept);
  }
  a.d_routed_in.release();
  a.ffn_out.release();
}

void experts_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const PrecisionRecipe& r = c.recipe;
  c.compute.grouped_product_weight(a.d_routed_out,
                                   a.routed.activated,
                                   r.along_tokens(r.gradients_sent, r.products.activation),
                                   a.rows,
                                   w.gradients.arrays(w.ids.experts, &FfnIds::down));
  c.compute.grouped_product_weight(a.routed.d_gate_up,
                                   a.routed_in,
                                   r.along_tokens(r.products.gradient, r.tokens_sent),
                                   a.rows,
                                   w.gradients.arrays(w.ids.experts, &FfnIds::gate_up));
  if (w.ids.shared) {
    ffn_weight(c, *w.ids.shared, w, c.as(a.h_norm, r.products.activation), a.d_out, a.shared);
  }
  a.routed_in.release();
  a.d_routed_out.release();
  a.routed = {};
  a.shared = {};
}

}  // namespace rehearse
