// The feed-forward half of a MoE layer: tokens to experts, the experts, and back.
// Source: DeepSeek-V3 technical report, equations 12-16.

#include "kernels/swiglu/swiglu.h"
#include "runtime/layers/ffn.h"

namespace rehearse {
namespace {

Ffn shared_ffn(const LayerContext& c, const LayerWeights& w) {
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
    work(Ffn{.ids = w.ids.experts[e],
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

kernels::UnpermuteShape unpermute_shape(const LayerContext& c) {
  return {.tokens = c.tokens(), .active = c.model.active_experts, .width = c.model.hidden};
}

}  // namespace

void dispatch_forward(const LayerContext& c, LayerActivations& a) {
  const Architecture& m = c.model;
  a.rows = kernels::map_rows(a.chosen, m.active_experts, m.experts);
  const int64_t rows = row_count(a);
  a.routed_in = Tensor(c.pool, rows, m.hidden);
  kernels::permute(a.rows.token_of_row, m.hidden, a.h_norm.data(), a.routed_in.data());
  a.row_weights = Tensor(c.pool, rows, 1);
  for (int64_t r = 0; r < rows; ++r) {
    const auto i = static_cast<size_t>(r);
    a.row_weights.data()[r] =
        a.weights.data()[a.rows.token_of_row[i] * m.active_experts + a.rows.choice_of_row[i]];
  }
}

void experts_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Architecture& m = c.model;
  const int64_t rows = row_count(a);
  const int64_t width = m.expert_intermediate;
  a.routed.gate_up = Tensor(c.pool, rows, 2 * width);
  a.routed.activated = Tensor(c.pool, rows, width);
  a.routed_out = Tensor(c.pool, rows, m.hidden);
  for_each_expert(c, w, a, [&](const Ffn& f, int64_t first) {
    ffn_up(
        f, w, a.routed_in.data() + first * m.hidden, a.routed.gate_up.data() + first * 2 * width);
  });
  kernels::swiglu(
      {rows, width}, a.routed.gate_up.data(), a.row_weights.data(), a.routed.activated.data());
  for_each_expert(c, w, a, [&](const Ffn& f, int64_t first) {
    ffn_down(
        f, w, a.routed.activated.data() + first * width, a.routed_out.data() + first * m.hidden);
  });
  if (w.ids.shared) {
    a.ffn_out = c.tensor(m.hidden);
    ffn_forward(c, shared_ffn(c, w), w, a.h_norm.data(), a.shared, a.ffn_out.data());
  }
}

Tensor combine_forward(const LayerContext& c, LayerActivations& a) {
  Tensor out = c.tensor(c.model.hidden);
  kernels::unpermute(unpermute_shape(c),
                     a.rows.row_of.data(),
                     a.routed_out.data(),
                     a.h.data(),
                     a.ffn_out.data(),
                     out.data());
  a.routed_out.release();
  a.ffn_out.release();
  return out;
}

void combine_input(const LayerContext& c, LayerActivations& a) {
  a.d_routed_out = Tensor(c.pool, row_count(a), c.model.hidden);
  kernels::permute(a.rows.token_of_row, c.model.hidden, a.d_out.data(), a.d_routed_out.data());
}

void experts_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Architecture& m = c.model;
  const int64_t rows = row_count(a);
  const int64_t width = m.expert_intermediate;
  Tensor d_activated(c.pool, rows, width);
  for_each_expert(c, w, a, [&](const Ffn& f, int64_t first) {
    ffn_down_input(
        f, w, a.d_routed_out.data() + first * m.hidden, d_activated.data() + first * width);
  });
  a.routed.d_gate_up = Tensor(c.pool, rows, 2 * width);
  a.d_row_weights = Tensor(c.pool, rows, 1);
  kernels::swiglu_backward({rows, width},
                           d_activated.data(),
                           a.routed.gate_up.data(),
                           a.row_weights.data(),
                           a.routed.d_gate_up.data(),
                           a.d_row_weights.data());
  a.d_routed_in = Tensor(c.pool, rows, m.hidden);
  for_each_expert(c, w, a, [&](const Ffn& f, int64_t first) {
    ffn_up_input(f,
                 w,
                 a.routed.d_gate_up.data() + first * 2 * width,
                 a.d_routed_in.data() + first * m.hidden);
  });
  if (w.ids.shared) {
    a.ffn_out = c.tensor(m.hidden);  // the shared experts' part of d_h_norm
    ffn_input(c, shared_ffn(c, w), w, a.d_out.data(), a.shared, a.ffn_out.data());
  }
}

void dispatch_input(const LayerContext& c, LayerActivations& a) {
  a.d_h_norm = c.tensor(c.model.hidden);
  kernels::unpermute(unpermute_shape(c),
                     a.rows.row_of.data(),
                     a.d_routed_in.data(),
                     a.ffn_out.data(),
                     nullptr,
                     a.d_h_norm.data());
  a.d_routed_in.release();
  a.ffn_out.release();
}

void experts_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a) {
  const Architecture& m = c.model;
  const int64_t width = m.expert_intermediate;
  for_each_expert(c, w, a, [&](const Ffn& f, int64_t first) {
    ffn_weight(f,
               w,
               {.x = a.routed_in.data() + first * m.hidden,
                .d_gate_up = a.routed.d_gate_up.data() + first * 2 * width,
                .activated = a.routed.activated.data() + first * width,
                .dy = a.d_routed_out.data() + first * m.hidden});
  });
  if (w.ids.shared) {
    ffn_weight(shared_ffn(c, w),
               w,
               {.x = a.h_norm.data(),
                .d_gate_up = a.shared.d_gate_up.data(),
                .activated = a.shared.activated.data(),
                .dy = a.d_out.data()});
  }
  a.routed_in.release();
  a.d_routed_out.release();
  a.routed = {};
  a.shared = {};
}

}  // namespace rehearse
