#include "runtime/devices/cpu/cpu_compute.h"

#include <algorithm>
#include <bit>

#include "kernels/add/add.h"
#include "kernels/cross_entropy/cross_entropy.h"
#include "kernels/embedding/embedding.h"
#include "kernels/rmsnorm/rmsnorm.h"
#include "kernels/swiglu/swiglu.h"
#include "runtime/devices/cpu/cpu_rows.h"

namespace rehearse {

namespace {

kernels::RmsNormShape norm_shape(const ConstArray& x, const ConstArray& gain, double eps) {
  return {
      .rows = x.extent.rows, .width = gain.extent.size(), .x_stride = x.extent.columns, .eps = eps};
}

// Of the rows that there are.
kernels::SwigluShape swiglu_shape(const ConstArray& gate_up, const Compute::Weighted* rows) {
  return {rows == nullptr ? gate_up.extent.rows : rows_of(rows->rows), gate_up.extent.columns / 2};
}
const float* row_weights(const Compute::Weighted* rows) {
  return rows == nullptr ? nullptr : rows->weights.fp32();
}

// The key that all of MLA's heads share; null without.
const float* shared_key(const AttentionOperands& a, const float* shared) {
  return shared == nullptr ? nullptr : shared + a.shared_first;
}

// Tokens whose target is not there take part as if it were the first of the vocabulary, and count
// for nothing.
std::vector<int32_t> some_targets(const ConstArray& targets) {
  std::vector<int32_t> all(targets.int32(), targets.int32() + targets.extent.size());
  for (int32_t& t : all) t = std::max(t, 0);
  return all;
}

}  // namespace

Tensor CpuCompute::make(int64_t rows, int64_t columns, DType type) const {
  return {pool_, rows, columns, type};
}

Tensor CpuCompute::zeros(int64_t rows, int64_t columns) const {
  Tensor x = wide(rows, columns);
  x.fill(0);
  return x;
}

// Where rows share scales, an expert's with its own alone.
Tensor CpuCompute::in_type(Tensor x, const Encoding& type, const ExpertRows* rows) const {
  if (x.type() == type.type) return x;
  if (rows == nullptr || type.scales.rows == 1) return converted(x, type, pool_);
  Tensor y = make(x.rows(), x.columns(), type.type);
  int64_t first = 0;
  for (int64_t e = 0; e < rows->expert_rows.extent.size(); ++e) {
    const int64_t count = rows->expert_rows.int32()[e];
    convert(rows_of(x.array(), first, count), rows_of(y.array(), first, count), type.scales);
    first += count;
  }
  return y;
}

void CpuCompute::encode(const ConstArray& from,
                        const Array& to,
                        const kernels::ScaleRule& rule) const {
  convert(from, to, rule);
}

void CpuCompute::copy(const ConstArray& from, const Array& to) const {
  rehearse::copy(from, to);
}

void CpuCompute::clear(const Array& x) const {
  pool_.memory().clear(x.data, x.extent.buffer_bytes());
}

Tensor CpuCompute::from_host(std::span<const int32_t> values) const {
  Tensor x = make(std::ssize(values), 1, DType::kInt32);
  std::copy(values.begin(), values.end(), x.int32());
  return x;
}

void CpuCompute::to_host(const ConstArray& x, void* to) const {
  pool_.memory().read(x.data, to, x.extent.buffer_bytes());
}

// --- norms

Normed CpuCompute::norm(const ConstArray& x,
                        const ConstArray& gain,
                        double eps,
                        const Encoding& type) const {
  const kernels::RmsNormShape shape = norm_shape(x, gain, eps);
  Normed n{.y = wide(shape.rows, shape.width), .inverse = wide(shape.rows, 1)};
  kernels::rmsnorm(shape, fp32(x), fp32(gain), n.y.data(), n.inverse.data());
  n.y = in_type(std::move(n.y), type);
  return n;
}

Tensor CpuCompute::norm_input(const NormBack& n, double eps) const {
  Tensor dx = wide(n.x.extent.rows, n.x.extent.columns);
  norm_input_into(n, eps, dx);
  return dx;
}

void CpuCompute::norm_input_into(const NormBack& n, double eps, const Array& dx) const {
  kernels::rmsnorm_backward(norm_shape(n.x, n.gain, eps),
                            fp32(n.dy),
                            fp32(n.x),
                            fp32(n.gain),
                            n.inverse.fp32(),
                            fp32(n.addend),
                            dx.fp32(),
                            n.d_gain.fp32());
}

// --- attention

Tensor CpuCompute::turned(Tensor x,
                          const Rotation& r,
                          kernels::Turn turn,
                          const Encoding& type) const {
  kernels::rope({.rows = x.rows(),
                 .heads = r.heads,
                 .row_stride = x.columns(),
                 .head_stride = r.stride,
                 .pairs = r.pairs},
                rope_,
                turn,
                x.data() + r.first);
  return in_type(std::move(x), type);
}

Attended CpuCompute::attention(const kernels::AttentionShape& s,
                               const AttentionOperands& a,
                               const Encoding& type) const {
  Attended out{.o = wide(s.tokens(), s.heads * s.v_head), .lse = wide(s.tokens(), s.heads)};
  kernels::attention(
      s, fp32(a.q), fp32(a.kv), shared_key(a, fp32(a.shared)), out.o.data(), out.lse.data());
  out.o = in_type(std::move(out.o), type);
  return out;
}

AttentionBack CpuCompute::attention_input(const kernels::AttentionShape& s,
                                          const ConstArray& d_o,
                                          const AttentionOperands& a,
                                          const ConstArray& o,
                                          const ConstArray& lse) const {
  AttentionBack d{.dq = wide(a.q.extent.rows, a.q.extent.columns),
                  .dkv = wide(a.kv.extent.rows, a.kv.extent.columns),
                  .d_shared = {}};
  const bool shared = a.shared.data != nullptr;
  if (shared) d.d_shared = wide(a.shared.extent.rows, a.shared.extent.columns);
  kernels::attention_backward(s,
                              fp32(d_o),
                              fp32(a.q),
                              fp32(a.kv),
                              shared_key(a, fp32(a.shared)),
                              fp32(o),
                              lse.fp32(),
                              {.dq = d.dq.data(),
                               .dkv = d.dkv.data(),
                               .dk_rope = shared ? d.d_shared.data() + a.shared_first : nullptr});
  return d;
}

// --- elementwise

Tensor CpuCompute::swiglu(const ConstArray& gate_up,
                          const Weighted* rows,
                          const Encoding& type) const {
  Tensor y = wide(gate_up.extent.rows, gate_up.extent.columns / 2);
  kernels::swiglu(swiglu_shape(gate_up, rows), fp32(gate_up), row_weights(rows), y.data());
  return in_type(std::move(y), type, rows == nullptr ? nullptr : &rows->rows);
}

SwigluBack CpuCompute::swiglu_input(const ConstArray& d_activated,
                                    const ConstArray& gate_up,
                                    const Weighted* rows,
                                    const Encoding& type) const {
  SwigluBack d;
  if (rows != nullptr) d.d_row_weights = wide(gate_up.extent.rows, 1);
  d.d_gate_up = wide(gate_up.extent.rows, gate_up.extent.columns);
  kernels::swiglu_backward(swiglu_shape(gate_up, rows),
                           fp32(d_activated),
                           fp32(gate_up),
                           row_weights(rows),
                           d.d_gate_up.data(),
                           rows != nullptr ? d.d_row_weights.data() : nullptr);
  d.d_gate_up = in_type(std::move(d.d_gate_up), type, rows == nullptr ? nullptr : &rows->rows);
  return d;
}

Tensor CpuCompute::sum(Tensor x,
                       std::initializer_list<ConstArray> addends,
                       const Encoding& type) const {
  for (const ConstArray& addend : addends) {
    if (addend.data != nullptr) kernels::add(x.size(), x.data(), fp32(addend), x.data());
  }
  return in_type(std::move(x), type);
}

void CpuCompute::accumulate(const ConstArray& x, const Array& gradient) const {
  kernels::add(gradient.extent.size(), gradient.fp32(), x.fp32(), gradient.fp32());
}

// By the exponent's bits, all of them set in what is not finite.
void CpuCompute::count_bad(const ConstArray& x, const Array& count) const {
  uint32_t bad = 0;
  const auto look = [&](const auto* values, auto exponent) {
    for (int64_t i = 0; i < x.extent.size(); ++i) {
      const auto bits = std::bit_cast<decltype(exponent)>(values[i]);
      bad |= static_cast<uint32_t>((bits & exponent) == exponent);
    }
  };
  x.extent.type == DType::kBf16 ? look(x.bf16(), uint16_t{0x7F80}) : look(x.fp32(), 0x7F800000u);
  *count.int64() += bad;
}

// --- the model's ends

Tensor CpuCompute::embedding(const ConstArray& tokens,
                             const ConstArray& table,
                             const Encoding& type) const {
  const std::span ids(tokens.int32(), static_cast<size_t>(tokens.extent.size()));
  const int64_t width = table.extent.columns;
  Tensor x(pool_, tokens.extent.size(), width, table.extent.type);
  if (table.extent.type == DType::kBf16) {
    kernels::embedding(ids, width, table.bf16(), x.bf16());
  } else {
    kernels::embedding(ids, width, table.fp32(), x.data());
  }
  return in_type(std::move(x), type);
}

void CpuCompute::embedding_weight(const ConstArray& tokens,
                                  const ConstArray& dx,
                                  const Array& d_table) const {
  const std::span ids(tokens.int32(), static_cast<size_t>(tokens.extent.size()));
  kernels::embedding_backward(ids, dx.extent.columns, fp32(dx), d_table.fp32());
}

Losses CpuCompute::cross_entropy(const ConstArray& targets,
                                 const ConstArray& logits,
                                 const Array& sum) const {
  const int64_t tokens = targets.extent.size();
  Losses l{.losses = wide(tokens, 1), .lse = wide(tokens, 1)};
  kernels::cross_entropy(
      some_targets(targets), logits.extent.columns, logits.fp32(), l.losses.data(), l.lse.data());
  double total = 0;
  for (int64_t t = 0; t < tokens; ++t) {
    if (targets.int32()[t] >= 0) total += static_cast<double>(l.losses.data()[t]);
  }
  *sum.fp64() = total;
  return l;
}

void CpuCompute::cross_entropy_input(const ConstArray& targets,
                                     double scale,
                                     const ConstArray& lse,
                                     const Array& logits) const {
  const int64_t vocabulary = logits.extent.columns;
  kernels::cross_entropy_backward(
      some_targets(targets), vocabulary, static_cast<float>(scale), lse.fp32(), logits.fp32());
  for (int64_t t = 0; t < targets.extent.size(); ++t) {
    if (targets.int32()[t] < 0) std::fill_n(logits.fp32() + t * vocabulary, vocabulary, 0.0f);
  }
}

}  // namespace rehearse
