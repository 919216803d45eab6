// The feed-forward half of a MoE layer: tokens to experts, the experts, and back.
// Source: DeepSeek-V3 technical report, equations 12-16.

#include <algorithm>

#include "kernels/add/add.h"
#include "kernels/swiglu/swiglu.h"
#include "runtime/layers/ffn.h"

namespace rehearse {
namespace {

FfnCall shared_ffn(const LayerContext& c, const LayerWeights& w) {
  return {.ids = *w.ids.shared,
          .rows = c.tokens(),
          .hidden = c.model.hidden,
          .width = c.model.shared_experts * c.model.expert_intermediate};
}

// Calls work(ffn, first row) for every expert.
template <typename Work>
void for_each_expert(const LayerContext& c,
                     const LayerWeights& w,
                     const LayerActivations& a,
                     Work work) {
  int64_t first = 0;
  for (size_t e = 0; e < w.ids.experts.size(); ++e) {
    const int64_t rows = a.rows.expert_rows[e];
    work(FfnCall{.ids = w.ids.experts[e],
                 .rows = rows,
                 .hidden = c.model.hidden,
                 .width = c.model.expert_intermediate},
         first);
    first += rows;
  }
}

int64_t row_count(const LayerActivations& a) {
  return static_cast<int64_t>(a.rows.token_of_row.size());
}

// Tokens that have rows here: the micro-batch's own, or those that arrived from the EP group.
int64_t tokens_here(const LayerContext& c, const LayerActivations& a) {
  return static_cast<int64_t>(a.rows.row_of.size()) / c.model.active_experts;
}

// Rows back to tokens: [tokens_here, hidden], FP32, plus the addends.
Tensor gathered(const LayerContext& c,
                const LayerActivations& a,
                const Tensor& rows,
                const Tensor& first,
                const Tensor& second) {
  const kernels::UnpermuteShape shape{
      .tokens = tokens_here(c, a), .active = c.model.active_experts, .width = c.model.hidden};
  Tensor out(c.pool, shape.tokens, shape.width);
  kernels::unpermute(
      shape, a.rows.row_of.data(), c.fp32(rows), c.fp32(first), c.fp32(second), out.data());
  return out;
}

// Tokens to the rows that are here: [row_count, hidden].
Tensor permuted(const LayerContext& c, const LayerActivations& a, const Tensor& x) {
  Tensor rows(c.pool, row_count(a), c.model.hidden, x.type());
  if (x.type() == DType::kBf16) {
    kernels::permute(a.rows.token_of_row, c.model.hidden, x.bf16(), rows.bf16());
  } else {
    kernels::permute(a.rows.token_of_row, c.model.hidden, x.data(), rows.data());
  }
  return rows;
}

// The row's entry of a per-choice tensor [tokens_here, active].
float of_row(const LayerContext& c, const LayerActivations& a, const Tensor& choices, size_t row) {
  return choices
      .data()[a.rows.token_of_row[row] * c.model.active_experts + a.rows.choice_of_row[row]];
}

// d_row_weights back to choices, 0 for choices without a row here; rows of `stride` floats.
void scatter_row_weights(const LayerContext& c,
                         const LayerActivations& a,
                         int64_t stride,
                         float* out) {
  const int64_t active = c.model.active_experts;
  for (size_t i = 0; i < a.rows.row_of.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const int32_t row = a.rows.row_of[i];
    out[at / active * stride + at % active] =
        row == kernels::kNoRow ? 0.0f : a.d_row_weights.data()[row];
  }
}

}  // namespace

void dispatch_forward(const LayerContext& c, const ExchangeCall* call, LayerActivations& a) {
  const Architecture& m = c.model;
  Exchange::Arrived arrived;
  std::vector<int32_t> placed;
  if (!c.slot_of.empty()) {
    placed.resize(a.chosen.size());
    std::ranges::transform(
        a.chosen, placed.begin(), [&](int32_t e) { return c.slot_of[static_cast<size_t>(e)]; });
  }
  const std::vector<int32_t>& slots = c.slot_of.empty() ? a.chosen : placed;
  if (call != nullptr) {
    arrived = a.exchange.dispatch(*call, a.h_norm, slots, a.weights);
    a.rows = kernels::map_rows(arrived.slots, m.active_experts, call->group.experts_per_member);
  } else {
    a.rows = kernels::map_rows(slots, m.active_experts, m.experts);
  }
  const Tensor& x = call != nullptr ? arrived.x : a.h_norm;
  const Tensor& weights = call != nullptr ? arrived.weights : a.weights;
  const int64_t rows = row_count(a);
  a.routed_in = permuted(c, a, x);
  a.row_weights = Tensor(c.pool, rows, 1);
  for (int64_t r = 0; r < rows; ++r) {
    a.row_weights.data()[r] = of_row(c, a, weights, static_cast<size_t>(r));
  }
}

void experts_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Architecture& m = c.model;
  const int64_t rows = row_count(a);
  const int64_t width = m.expert_intermediate;
  a.routed.gate_up = Tensor(c.pool, rows, 2 * width);
  for_each_expert(c, w, a, [&](const FfnCall& f, int64_t first) {
    ffn_up(f, w, c.fp32(a.routed_in, first, f.rows), a.routed.gate_up.data() + first * 2 * width);
  });
  c.keep(a.routed.gate_up);
  activate(c, width, a.row_weights.data(), a.routed);
  a.routed_out = Tensor(c.pool, rows, m.hidden);
  for_each_expert(c, w, a, [&](const FfnCall& f, int64_t first) {
    ffn_down(
        f, w, c.fp32(a.routed.activated, first, f.rows), a.routed_out.data() + first * m.hidden);
  });
  c.keep(a.routed_out);
  if (c.again.activations) a.routed.activated.release();
  if (w.ids.shared) {
    a.ffn_out = c.tensor(m.hidden);
    ffn_forward(c, shared_ffn(c, w), w, c.fp32(a.h_norm), a.shared, a.ffn_out.data());
    c.keep(a.ffn_out);
  }
}

Tensor combine_forward(const LayerContext& c, const ExchangeCall* call, LayerActivations& a) {
  Tensor out;
  if (call == nullptr) {
    out = gathered(c, a, a.routed_out, a.h, a.ffn_out);
  } else {
    out = a.exchange.reduce(*call, gathered(c, a, a.routed_out, {}, {}), c.stored);
    kernels::add(out.size(), out.data(), c.fp32(a.h), out.data());
    if (!a.ffn_out.empty()) kernels::add(out.size(), out.data(), c.fp32(a.ffn_out), out.data());
  }
  c.keep(out);
  a.routed_out.release();
  a.ffn_out.release();
  if (c.again.norms) a.h_norm.release();
  return out;
}

void combine_input(const LayerContext& c, const ExchangeCall* call, LayerActivations& a) {
  Tensor arrived;
  if (call != nullptr) arrived = a.exchange.spread(*call, a.d_out);
  const Tensor& d_out = call != nullptr ? arrived : a.d_out;
  a.d_routed_out = permuted(c, a, d_out);
}

void experts_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Architecture& m = c.model;
  const int64_t rows = row_count(a);
  const int64_t width = m.expert_intermediate;
  post_norm_again(c, w, a);
  if (a.routed.activated.empty()) activate(c, width, a.row_weights.data(), a.routed);
  Tensor d_activated(c.pool, rows, width);
  for_each_expert(c, w, a, [&](const FfnCall& f, int64_t first) {
    ffn_down_input(f, w, c.fp32(a.d_routed_out, first, f.rows), d_activated.data() + first * width);
  });
  a.d_row_weights = Tensor(c.pool, rows, 1);
  activate_input(c, d_activated, a.row_weights.data(), a.routed, a.d_row_weights.data());
  a.d_routed_in = Tensor(c.pool, rows, m.hidden);
  for_each_expert(c, w, a, [&](const FfnCall& f, int64_t first) {
    ffn_up_input(
        f, w, c.fp32(a.routed.d_gate_up, first, f.rows), a.d_routed_in.data() + first * m.hidden);
  });
  c.keep(a.d_routed_in);
  if (w.ids.shared) {
    a.ffn_out = c.tensor(m.hidden);  // the shared experts' part of d_h_norm
    ffn_input(c, shared_ffn(c, w), w, c.fp32(a.d_out), a.shared, a.ffn_out.data());
    c.keep(a.ffn_out);
  }
}

void dispatch_input(const LayerContext& c, const ExchangeCall* call, LayerActivations& a) {
  const int64_t hidden = c.model.hidden;
  const int64_t active = c.model.active_experts;
  a.d_weights = c.tensor(active);
  if (call == nullptr) {
    a.d_h_norm = gathered(c, a, a.d_routed_in, a.ffn_out, {});
    scatter_row_weights(c, a, active, a.d_weights.data());
  } else {
    // One message per token: its gradient and those of its weights.
    const Tensor sums = gathered(c, a, a.d_routed_in, {}, {});
    Tensor partial(c.pool, sums.rows(), hidden + active);
    for (int64_t i = 0; i < sums.rows(); ++i) {
      const float* row = sums.data() + i * hidden;
      std::copy(row, row + hidden, partial.data() + i * partial.columns());
    }
    scatter_row_weights(c, a, partial.columns(), partial.data() + hidden);
    const Tensor back = a.exchange.reduce(*call, partial, c.stored, active);
    a.d_h_norm = c.tensor(hidden);
    for (int64_t t = 0; t < back.rows(); ++t) {
      const float* row = back.data() + t * back.columns();
      std::copy(row, row + hidden, a.d_h_norm.data() + t * hidden);
      std::copy(row + hidden, row + hidden + active, a.d_weights.data() + t * active);
    }
    if (!a.ffn_out.empty()) {
      kernels::add(a.d_h_norm.size(), a.d_h_norm.data(), c.fp32(a.ffn_out), a.d_h_norm.data());
    }
  }
  c.keep(a.d_h_norm);
  a.d_routed_in.release();
  a.ffn_out.release();
}

void experts_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  for_each_expert(c, w, a, [&](const FfnCall& f, int64_t first) {
    ffn_weight(f,
               w,
               {.x = c.fp32(a.routed_in, first, f.rows),
                .d_gate_up = c.fp32(a.routed.d_gate_up, first, f.rows),
                .activated = c.fp32(a.routed.activated, first, f.rows),
                .dy = c.fp32(a.d_routed_out, first, f.rows)});
  });
  if (w.ids.shared) ffn_weight(c, shared_ffn(c, w), w, a.h_norm, a.d_out, a.shared);
  a.routed_in.release();
  a.d_routed_out.release();
  a.routed = {};
  a.shared = {};
}

}  // namespace rehearse
