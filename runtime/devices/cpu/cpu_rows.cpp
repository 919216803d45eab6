// Operations on cores that move rows, columns, heads and choices, and the router.

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
void scatter(const RowMap& rows, int64_t active, const float* x, int64_t stride, float* y) {
  for (size_t i = 0; i < rows.row_of.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const int32_t row = rows.row_of[i];
    y[at / active * stride + at % active] = row == kernels::kNoRow ? 0.0f : x[row];
  }
}

int64_t tokens_of(const RowMap& rows, int64_t active) {
  return static_cast<int64_t>(rows.row_of.size()) / active;
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

Tensor CpuCompute::keys_of(const HeadsShape& s, const Tensor& kv) const {
  Tensor k = wide(kv.rows(), s.k());
  for (int64_t i = 0; i < kv.rows() * s.kv_heads; ++i) {
    std::copy_n(kv.data() + i * (s.qk + s.v), s.qk, k.data() + i * s.qk);
  }
  return k;
}

void CpuCompute::put_keys(const HeadsShape& s, const Tensor& k, Tensor& kv) const {
  for (int64_t i = 0; i < kv.rows() * s.kv_heads; ++i) {
    std::copy_n(k.data() + i * s.qk, s.qk, kv.data() + i * (s.qk + s.v));
  }
}

// --- the router

Gated CpuCompute::gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const {
  Gated g{.scores = wide(s.tokens, s.experts),
          .weights = wide(s.tokens, s.active),
          .chosen = std::vector<int32_t>(static_cast<size_t>(s.tokens * s.active))};
  kernels::gate(s,
                logits.data(),
                bias.data == nullptr ? nullptr : bias.fp32(),
                g.scores.data(),
                g.chosen.data(),
                g.weights.data());
  return g;
}

void CpuCompute::force_balanced(const Architecture& model,
                                const kernels::GateShape& s,
                                Gated& g) const {
  for (int64_t t = 0; t < s.tokens; ++t) {
    const auto chosen = std::span(g.chosen).subspan(static_cast<size_t>(t * s.active),
                                                    static_cast<size_t>(s.active));
    balanced_choice(model, t, chosen);
    const float* const scores = g.scores.data() + t * s.experts;
    float sum = 0;
    for (const int32_t e : chosen) sum += scores[e];
    const float factor = static_cast<float>(s.scaling) / (s.normalize ? sum : 1.0f);
    for (size_t k = 0; k < chosen.size(); ++k) {
      g.weights.data()[t * s.active + static_cast<int64_t>(k)] = scores[chosen[k]] * factor;
    }
  }
}

Tensor CpuCompute::gate_input(const kernels::GateShape& s,
                              const kernels::BalanceLoss& loss,
                              const ConstArray& d_weights,
                              const ConstArray& scores,
                              std::span<const int32_t> chosen) const {
  Tensor d_logits = wide(s.tokens, s.experts);
  kernels::gate_backward(s, loss, d_weights.fp32(), scores.fp32(), chosen.data(), d_logits.data());
  return d_logits;
}

std::vector<int32_t> CpuCompute::slots(std::span<const int32_t> chosen,
                                       std::span<const int32_t> slot_of) const {
  std::vector<int32_t> placed(chosen.begin(), chosen.end());
  if (slot_of.empty()) return placed;
  for (int32_t& e : placed) e = slot_of[static_cast<size_t>(e)];
  return placed;
}

void CpuCompute::count(std::span<const int32_t> chosen, std::span<int64_t> load) const {
  for (const int32_t e : chosen) ++load[static_cast<size_t>(e)];
}

// --- rows of experts

RowMap CpuCompute::map_rows(std::span<const int32_t> slots, int64_t active, int64_t experts) const {
  return kernels::map_rows(slots, active, experts);
}

Tensor CpuCompute::permute(const RowMap& rows, const ConstArray& x) const {
  const int64_t width = x.extent.columns;
  Tensor y(pool_, static_cast<int64_t>(rows.token_of_row.size()), width, x.extent.type);
  if (x.extent.type == DType::kBf16) {
    kernels::permute(rows.token_of_row, width, x.bf16(), y.bf16());
  } else {
    kernels::permute(rows.token_of_row, width, x.fp32(), y.data());
  }
  return y;
}

Tensor CpuCompute::unpermute(const RowMap& rows,
                             int64_t active,
                             const ConstArray& x,
                             const ConstArray& first,
                             const ConstArray& second,
                             DType type) const {
  const kernels::UnpermuteShape shape{
      .tokens = tokens_of(rows, active), .active = active, .width = x.extent.columns};
  Tensor y = wide(shape.tokens, shape.width);
  kernels::unpermute(shape, rows.row_of.data(), fp32(x), fp32(first), fp32(second), y.data());
  return in_type(std::move(y), type);
}

Tensor CpuCompute::of_rows(const RowMap& rows, const ConstArray& choices) const {
  Tensor y = wide(static_cast<int64_t>(rows.token_of_row.size()), 1);
  const float* const x = choices.fp32();
  for (size_t r = 0; r < rows.token_of_row.size(); ++r) {
    y.data()[r] = x[rows.token_of_row[r] * choices.extent.columns + rows.choice_of_row[r]];
  }
  return y;
}

Tensor CpuCompute::of_choices(const RowMap& rows, int64_t active, const ConstArray& x) const {
  Tensor y = wide(tokens_of(rows, active), active);
  scatter(rows, active, x.fp32(), active, y.data());
  return y;
}

Tensor CpuCompute::beside(const RowMap& rows,
                          int64_t active,
                          const ConstArray& x,
                          const ConstArray& y) const {
  const int64_t width = x.extent.columns;
  Tensor both = wide(x.extent.rows, width + active);
  const float* const from = x.fp32();
  for (int64_t i = 0; i < x.extent.rows; ++i) {
    std::copy_n(from + i * width, width, both.data() + i * both.columns());
  }
  scatter(rows, active, y.fp32(), both.columns(), both.data() + width);
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

void CpuCompute::put_columns(const ConstArray& x, int64_t first, Tensor& into) const {
  const int64_t width = x.extent.columns;
  const float* const from = x.fp32();
  for (int64_t i = 0; i < x.extent.rows; ++i) {
    std::copy_n(from + i * width, width, into.data() + i * into.columns() + first);
  }
}

}  // namespace rehearse
