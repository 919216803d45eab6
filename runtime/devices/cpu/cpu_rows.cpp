// Operations on cores that move rows, columns, heads and choices, and the router.

#include "runtime/devices/cpu/cpu_rows.h"

#include <algorithm>

#include "plan/routing/counts.h"
#include "runtime/devices/cpu/cpu_compute.h"

namespace rehearse {

namespace {

// Between [T, q | keys | values] and queries, keys and values by head: keys beside their values, or
// by themselves.
enum class Copy : uint8_t { kSplit, kJoin };
void copy_heads(
    const HeadsShape& s, int64_t tokens, Copy way, float* qkv, float* q, float* k, float* kv) {
  const auto copy = [&](float* joined, float* split, int64_t count) {
    way == Copy::kSplit ? std::copy_n(joined, count, split) : std::copy_n(split, count, joined);
  };
  for (int64_t t = 0; t < tokens; ++t) {
    float* const row = qkv + t * s.all();
    copy(row, q + t * s.q(), s.q());
    for (int64_t h = 0; h < s.kv_heads; ++h) {
      float* const head = kv + t * s.kv() + h * (s.qk + s.v);
      float* const key = k == nullptr ? head : k + t * s.k() + h * s.qk;
      copy(row + s.q() + h * s.qk, key, s.qk);
      copy(row + s.q() + s.k() + h * s.v, head + s.qk, s.v);
    }
  }
}

// y[i] = x of the choice's row, 0 for choices without a row here; rows of `stride` floats.
void scatter(const ExpertRows& rows, const float* x, int64_t stride, float* y) {
  const int64_t active = rows.active();
  const int32_t* const row_of = rows.row_of.int32();
  for (int64_t i = 0; i < rows.row_of.extent.size(); ++i) {
    y[i / active * stride + i % active] = row_of[i] == kernels::kNoRow ? 0.0f : x[row_of[i]];
  }
}

std::span<int32_t> values(const Array& a) {
  return {a.int32(), static_cast<size_t>(a.extent.size())};
}
std::span<const int32_t> values(const ConstArray& a) {
  return {a.int32(), static_cast<size_t>(a.extent.size())};
}

}  // namespace

// --- heads

Split CpuCompute::split_heads(const HeadsShape& s, Tensor qkv, bool keys_alone) const {
  const int64_t t = qkv.rows();
  Split out;
  out.q = wide(t, s.q());
  if (keys_alone) out.k = wide(t, s.k());
  out.kv = wide(t, s.kv());
  copy_heads(s,
             t,
             Copy::kSplit,
             qkv.data(),
             out.q.data(),
             keys_alone ? out.k.data() : nullptr,
             out.kv.data());
  return out;
}

Tensor CpuCompute::join_heads(const HeadsShape& s, Tensor q, Tensor kv) const {
  Tensor qkv = wide(q.rows(), s.all());
  copy_heads(s, q.rows(), Copy::kJoin, qkv.data(), q.data(), nullptr, kv.data());
  return qkv;
}

Tensor CpuCompute::keys_of(const HeadsShape& s, const ConstArray& kv) const {
  Tensor k = wide(kv.extent.rows, s.k());
  for (int64_t i = 0; i < kv.extent.rows * s.kv_heads; ++i) {
    std::copy_n(kv.fp32() + i * (s.qk + s.v), s.qk, k.data() + i * s.qk);
  }
  return k;
}

void CpuCompute::put_keys(const HeadsShape& s, const ConstArray& k, const Array& kv) const {
  for (int64_t i = 0; i < kv.extent.rows * s.kv_heads; ++i) {
    std::copy_n(k.fp32() + i * s.qk, s.qk, kv.fp32() + i * (s.qk + s.v));
  }
}

// --- the router

Gated CpuCompute::gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const {
  Gated g{.scores = wide(s.tokens, s.experts),
          .weights = wide(s.tokens, s.active),
          .chosen = make(s.tokens, s.active, DType::kInt32)};
  kernels::gate(s,
                logits.data(),
                bias.data == nullptr ? nullptr : bias.fp32(),
                g.scores.data(),
                g.chosen.int32(),
                g.weights.data());
  return g;
}

void CpuCompute::force_balanced(const Architecture& model,
                                const kernels::GateShape& s,
                                const ConstArray& scores,
                                const Array& weights,
                                const Array& chosen) const {
  for (int64_t t = 0; t < s.tokens; ++t) {
    const std::span of_token(chosen.int32() + t * s.active, static_cast<size_t>(s.active));
    balanced_choice(model, t, of_token);
    const float* const score = scores.fp32() + t * s.experts;
    float sum = 0;
    for (const int32_t e : of_token) sum += score[e];
    const float factor = static_cast<float>(s.scaling) / (s.normalize ? sum : 1.0f);
    for (size_t k = 0; k < of_token.size(); ++k) {
      weights.fp32()[t * s.active + static_cast<int64_t>(k)] = score[of_token[k]] * factor;
    }
  }
}

Tensor CpuCompute::gate_input(const kernels::GateShape& s,
                              const kernels::BalanceLoss& loss,
                              const ConstArray& d_weights,
                              const ConstArray& scores,
                              const ConstArray& chosen) const {
  Tensor d_logits = wide(s.tokens, s.experts);
  kernels::gate_backward(s, loss, d_weights.fp32(), scores.fp32(), chosen.int32(), d_logits.data());
  return d_logits;
}

Tensor CpuCompute::slots(const ConstArray& chosen, const ConstArray& slot_of) const {
  Tensor placed = make(chosen.extent.rows, chosen.extent.columns, DType::kInt32);
  const std::span<const int32_t> from = values(chosen);
  std::transform(
      from.begin(), from.end(), placed.int32(), [&](int32_t e) { return slot_of.int32()[e]; });
  return placed;
}

void CpuCompute::count(const ConstArray& chosen, const Array& load) const {
  for (const int32_t e : values(chosen)) ++load.int64()[e];
}

void CpuCompute::update_bias(const ConstArray& load, double speed, const Array& bias) const {
  const int64_t experts = load.extent.size();
  int64_t sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += load.int64()[e];
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t above = load.int64()[e] * experts - sum;
    const double sign = above > 0 ? -1 : above < 0 ? 1 : 0;
    bias.fp32()[e] += static_cast<float>(speed * sign);
  }
}

// --- rows of experts

int64_t rows_of(const ExpertRows& rows) {
  int64_t all = 0;
  for (const int32_t n : values(rows.expert_rows)) all += n;
  return all;
}

int64_t fill_rows(const ConstArray& slots,
                  const Array& expert_rows,
                  const Array& token_of_row,
                  const Array& choice_of_row,
                  const Array& row_of) {
  return kernels::map_rows(
      values(slots),
      slots.extent.columns,
      {values(expert_rows), values(token_of_row), values(choice_of_row), values(row_of)});
}

// The numbers are at hand: as much room as there are rows, and nothing overflows.
RowMap CpuCompute::map_rows(const ConstArray& slots,
                            int64_t experts,
                            const Array& overflowed) const {
  const std::span<const int32_t> all = values(slots);
  const auto rows = std::count_if(all.begin(), all.end(), [](int32_t e) { return e >= 0; });
  RowMap map{.expert_rows = make(experts, 1, DType::kInt32),
             .token_of_row = make(rows, 1, DType::kInt32),
             .choice_of_row = make(rows, 1, DType::kInt32),
             .row_of = make(slots.extent.rows, slots.extent.columns, DType::kInt32)};
  *overflowed.int64() +=
      fill_rows(slots, map.expert_rows, map.token_of_row, map.choice_of_row, map.row_of);
  return map;
}

Tensor CpuCompute::permute(const ExpertRows& rows, const ConstArray& x) const {
  const int64_t width = x.extent.columns;
  Tensor y(pool_, rows.capacity(), width, x.extent.type);
  const auto tokens = values(rows.token_of_row).first(static_cast<size_t>(rows_of(rows)));
  if (x.extent.type == DType::kBf16) {
    kernels::permute(tokens, width, x.bf16(), y.bf16());
  } else if (x.extent.type == DType::kFp8) {
    kernels::permute(tokens, width, x.codes(), y.codes());
    const Array to = y;
    for (int64_t t = 0; t < x.extent.tiles(); ++t) {
      kernels::permute(tokens, 1, x.scales + t * x.scale_stride, to.scales + t * to.scale_stride);
    }
  } else {
    kernels::permute(tokens, width, x.fp32(), y.data());
  }
  return y;
}

Tensor CpuCompute::unpermute(const ExpertRows& rows,
                             const ConstArray& x,
                             const ConstArray& first,
                             const ConstArray& second,
                             const Encoding& type) const {
  const kernels::UnpermuteShape shape{
      .tokens = rows.tokens(), .active = rows.active(), .width = x.extent.columns};
  Tensor y = wide(shape.tokens, shape.width);
  kernels::unpermute(shape, rows.row_of.int32(), fp32(x), fp32(first), fp32(second), y.data());
  return in_type(std::move(y), type);
}

Tensor CpuCompute::of_rows(const ExpertRows& rows, const ConstArray& choices) const {
  Tensor y = wide(rows.capacity(), 1);
  const float* const x = choices.fp32();
  const int32_t* const token = rows.token_of_row.int32();
  const int32_t* const choice = rows.choice_of_row.int32();
  const int64_t count = rows_of(rows);
  for (int64_t r = 0; r < count; ++r) {
    y.data()[r] = x[token[r] * choices.extent.columns + choice[r]];
  }
  return y;
}

Tensor CpuCompute::of_choices(const ExpertRows& rows, const ConstArray& x) const {
  Tensor y = wide(rows.tokens(), rows.active());
  scatter(rows, x.fp32(), rows.active(), y.data());
  return y;
}

Tensor CpuCompute::beside(const ExpertRows& rows, const ConstArray& x, const ConstArray& y) const {
  const int64_t width = x.extent.columns;
  Tensor both = wide(x.extent.rows, width + rows.active());
  const float* const from = x.fp32();
  for (int64_t i = 0; i < x.extent.rows; ++i) {
    std::copy_n(from + i * width, width, both.data() + i * both.columns());
  }
  scatter(rows, y.fp32(), both.columns(), both.data() + width);
  return both;
}

Tensor CpuCompute::columns(const ConstArray& x, Columns c) const {
  Tensor part = wide(x.extent.rows, c.count);
  const float* const from = x.fp32() + c.first;
  for (int64_t i = 0; i < x.extent.rows; ++i) {
    std::copy_n(from + i * x.extent.columns, c.count, part.data() + i * c.count);
  }
  return part;
}

void CpuCompute::put_columns(const ConstArray& x, int64_t first, const Array& into) const {
  const int64_t width = x.extent.columns;
  const float* const from = x.fp32();
  for (int64_t i = 0; i < x.extent.rows; ++i) {
    std::copy_n(from + i * width, width, into.fp32() + i * into.extent.columns + first);
  }
}

}  // namespace rehearse
