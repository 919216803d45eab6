// A card's router, and rows of experts.

#include "plan/routing/counts.h"
#include "runtime/devices/cuda/gpu_values.h"

namespace rehearse {

// --- the router

Gated GpuCompute::gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const {
  Gated g{.scores = wide(s.tokens, s.experts),
          .weights = wide(s.tokens, s.active),
          .chosen = make(s.tokens, s.active, DType::kInt32)};
  start(k_.gate,
        {.shape = s,
         .logits = logits.data(),
         .bias = bias.data == nullptr ? nullptr : bias.fp32(),
         .scores = g.scores.data(),
         .chosen = g.chosen.int32(),
         .weights = g.weights.data()});
  return g;
}

void GpuCompute::force_balanced(const Architecture& model,
                                const kernels::GateShape& s,
                                const ConstArray& scores,
                                const Array& weights,
                                const Array& chosen) const {
  std::vector<int32_t> all(static_cast<size_t>(s.tokens * s.active));
  for (int64_t t = 0; t < s.tokens; ++t) {
    balanced_choice(
        model,
        t,
        std::span(all).subspan(static_cast<size_t>(t * s.active), static_cast<size_t>(s.active)));
  }
  gpu_.upload(all.data(), chosen.data, all.size() * sizeof(int32_t));
  start(k_.weights_of_chosen,
        {.scores = scores.fp32(),
         .chosen = chosen.int32(),
         .weights = weights.fp32(),
         .tokens = s.tokens,
         .experts = s.experts,
         .active = s.active,
         .scaling = static_cast<float>(s.scaling),
         .normalize = s.normalize});
}

Tensor GpuCompute::gate_input(const kernels::GateShape& s,
                              const kernels::BalanceLoss& loss,
                              const ConstArray& d_weights,
                              const ConstArray& scores,
                              const ConstArray& chosen) const {
  Tensor d_logits = wide(s.tokens, s.experts);
  const bool balanced = loss.coefficient != 0;
  Tensor frequency = wide(balanced ? s.tokens / loss.length : 1, s.experts);
  start(k_.gate_backward,
        {.shape = s,
         .loss = loss,
         .d_weights = d_weights.fp32(),
         .scores = scores.fp32(),
         .chosen = chosen.int32(),
         .frequency = frequency.data(),
         .d_logits = d_logits.data()});
  return d_logits;
}

Tensor GpuCompute::slots(const ConstArray& chosen, const ConstArray& slot_of) const {
  Tensor placed = make(chosen.extent.rows, chosen.extent.columns, DType::kInt32);
  start(k_.look_up,
        {.from = chosen.int32(),
         .table = slot_of.int32(),
         .to = placed.int32(),
         .count = placed.size()});
  return placed;
}

void GpuCompute::count(const ConstArray& chosen, const Array& load) const {
  start(k_.count,
        {.chosen = chosen.int32(),
         .load = load.int64(),
         .count = chosen.extent.size(),
         .experts = load.extent.size()});
}

void GpuCompute::update_bias(const ConstArray& load, double speed, const Array& bias) const {
  start(k_.update_bias,
        {.load = load.int64(), .bias = bias.fp32(), .experts = load.extent.size(), .speed = speed});
}

// --- rows of experts

RowMap GpuCompute::map_rows(const ConstArray& slots,
                            int64_t experts,
                            const Array& overflowed) const {
  const int64_t tokens = slots.extent.rows;
  const int64_t active = slots.extent.columns;
  const int64_t capacity = room_.rows(tokens, active, experts);
  RowMap map{.expert_rows = make(experts, 1, DType::kInt32),
             .token_of_row = make(capacity, 1, DType::kInt32),
             .choice_of_row = make(capacity, 1, DType::kInt32),
             .row_of = make(tokens, active, DType::kInt32)};
  Tensor starts = make(kernels::map_chunks(tokens) + 1, experts, DType::kInt32);
  start(k_.map_rows,
        {.slots = slots.int32(),
         .expert_rows = map.expert_rows.int32(),
         .token_of_row = map.token_of_row.int32(),
         .choice_of_row = map.choice_of_row.int32(),
         .row_of = map.row_of.int32(),
         .overflowed = overflowed.int64(),
         .starts = starts.int32(),
         .tokens = tokens,
         .active = active,
         .experts = experts,
         .capacity = capacity});
  return map;
}

Tensor GpuCompute::permute(const ExpertRows& rows, const ConstArray& x) const {
  Tensor y = make(rows.capacity(), x.extent.columns, x.extent.type);
  kernels::GpuPermute call{.token_of_row = rows.token_of_row.int32(),
                           .counts = counts_of(rows),
                           .width = x.extent.columns,
                           .capacity = rows.capacity()};
  if (x.extent.type == DType::kFp8) {
    const Array to = y;
    call.x_codes = x.codes();
    call.row_codes = to.codes();
    call.x_scales = x.scales;
    call.row_scales = to.scales;
    call.x_scale_stride = x.scale_stride;
    call.row_scale_stride = to.scale_stride;
  } else {
    call.x = on_card(x);
    call.rows = on_card(y);
  }
  start(k_.permute, call);
  return y;
}

Tensor GpuCompute::unpermute(const ExpertRows& rows,
                             const ConstArray& x,
                             const ConstArray& first,
                             const ConstArray& second,
                             const Encoding& type) const {
  Tensor y = make(rows.tokens(), x.extent.columns, type.type);
  start(k_.unpermute,
        {.row_of = rows.row_of.int32(),
         .rows = on_card(x),
         .first = on_card(first),
         .second = on_card(second),
         .y = on_card(y),
         .tokens = rows.tokens(),
         .active = rows.active(),
         .width = x.extent.columns});
  return y;
}

Tensor GpuCompute::of_rows(const ExpertRows& rows, const ConstArray& choices) const {
  Tensor y = wide(rows.capacity(), 1);
  start(k_.of_rows,
        {.token_of_row = rows.token_of_row.int32(),
         .choice_of_row = rows.choice_of_row.int32(),
         .counts = counts_of(rows),
         .choices = choices.fp32(),
         .rows = y.data(),
         .active = choices.extent.columns,
         .capacity = rows.capacity()});
  return y;
}

Tensor GpuCompute::of_choices(const ExpertRows& rows, const ConstArray& x) const {
  Tensor y = wide(rows.tokens(), rows.active());
  start(k_.of_choices,
        {.row_of = rows.row_of.int32(),
         .rows = x.fp32(),
         .to = y.data(),
         .tokens = rows.tokens(),
         .active = rows.active(),
         .to_row = rows.active()});
  return y;
}

Tensor GpuCompute::beside(const ExpertRows& rows, const ConstArray& x, const ConstArray& y) const {
  const int64_t width = x.extent.columns;
  Tensor both = wide(x.extent.rows, width + rows.active());
  put_columns(x, 0, both);
  start(k_.of_choices,
        {.row_of = rows.row_of.int32(),
         .rows = y.fp32(),
         .to = both.data() + width,
         .tokens = rows.tokens(),
         .active = rows.active(),
         .to_row = both.columns()});
  return both;
}

Tensor GpuCompute::columns(const ConstArray& x, Columns c) const {
  Tensor part = wide(x.extent.rows, c.count);
  move({.from = x.fp32() + c.first,
        .to = part.data(),
        .rows = x.extent.rows,
        .width = c.count,
        .from_row = x.extent.columns,
        .to_row = c.count});
  return part;
}

void GpuCompute::put_columns(const ConstArray& x, int64_t first, const Array& into) const {
  move({.from = x.fp32(),
        .to = into.fp32() + first,
        .rows = x.extent.rows,
        .width = x.extent.columns,
        .from_row = x.extent.columns,
        .to_row = into.extent.columns});
}

}  // namespace rehearse
