#pragma once
// Operations whose results have their shapes and nothing in them: what is left of a step is what
// the runtime itself does. Devices that do the work later build on it.

#include "runtime/compute/compute.h"

namespace rehearse {

class NullCompute : public Compute {
 public:
  // Must outlive it.
  explicit NullCompute(BufferPool& pool) : pool_(pool) {}

  Tensor make(int64_t rows, int64_t columns, DType type) const override {
    return {pool_, rows, columns, type};
  }
  Tensor zeros(int64_t rows, int64_t columns) const override { return wide(rows, columns); }
  Tensor in_type(Tensor x, const Encoding& type, const ExpertRows* = nullptr) const override {
    return x.type() == type.type ? std::move(x) : make(x.rows(), x.columns(), type.type);
  }
  void copy(const ConstArray&, const Array&) const override {}
  void encode(const ConstArray&, const Array&, const kernels::ScaleRule&) const override {}
  void clear(const Array&) const override {}
  Tensor from_host(std::span<const int32_t> values) const override {
    return make(std::ssize(values), 1, DType::kInt32);
  }
  void to_host(const ConstArray&, void*) const override {}

  Tensor product(const ConstArray& x,
                 const ConstArray& w,
                 const Encoding& type,
                 const ConstArray&) const override {
    return make(x.extent.rows, w.extent.rows, type.type);
  }
  Tensor product_input(const ConstArray& dy, const ConstArray& w) const override {
    return wide(dy.extent.rows, w.extent.columns);
  }
  Tensor add_product_input(const ConstArray&, const ConstArray&, Tensor dx) const override {
    return NullCompute::in_type(std::move(dx), DType::kFp32);
  }
  void product_weight(const ConstArray&,
                      const ConstArray&,
                      const AlongTokens&,
                      const Array&) const override {}
  Tensor grouped_product(const ConstArray& x,
                         std::span<const ConstArray> w,
                         const ExpertRows&,
                         const Encoding& type) const override {
    return make(x.extent.rows, w.front().extent.rows, type.type);
  }
  Tensor grouped_product_input(const ConstArray& dy,
                               std::span<const ConstArray> w,
                               const ExpertRows&,
                               const Encoding& type) const override {
    return make(dy.extent.rows, w.front().extent.columns, type.type);
  }
  void grouped_product_weight(const ConstArray&,
                              const ConstArray&,
                              const AlongTokens&,
                              const ExpertRows&,
                              std::span<const Array>) const override {}

  Normed norm(const ConstArray& x,
              const ConstArray& gain,
              double,
              const Encoding& type) const override {
    return {make(x.extent.rows, gain.extent.size(), type.type), wide(x.extent.rows, 1)};
  }
  Tensor norm_input(const NormBack& n, double) const override {
    return wide(n.x.extent.rows, n.x.extent.columns);
  }
  void norm_input_into(const NormBack&, double, const Array&) const override {}

  Tensor turned(Tensor x, const Rotation&, kernels::Turn, const Encoding& type) const override {
    return NullCompute::in_type(std::move(x), type);
  }
  Attended attention(const kernels::AttentionShape& s,
                     const AttentionOperands&,
                     const Encoding& type) const override {
    return {make(s.tokens(), s.heads * s.v_head, type.type), wide(s.tokens(), s.heads)};
  }
  AttentionBack attention_input(const kernels::AttentionShape&,
                                const ConstArray&,
                                const AttentionOperands& a,
                                const ConstArray&,
                                const ConstArray&) const override {
    return {like(a.q), like(a.kv), a.shared.data == nullptr ? Tensor() : like(a.shared)};
  }
  Split split_heads(const HeadsShape& s, Tensor qkv, bool keys_alone) const override {
    return {wide(qkv.rows(), s.q()),
            keys_alone ? wide(qkv.rows(), s.k()) : Tensor(),
            wide(qkv.rows(), s.kv())};
  }
  Tensor join_heads(const HeadsShape& s, Tensor q, Tensor) const override {
    return wide(q.rows(), s.all());
  }
  Tensor keys_of(const HeadsShape& s, const ConstArray& kv) const override {
    return wide(kv.extent.rows, s.k());
  }
  void put_keys(const HeadsShape&, const ConstArray&, const Array&) const override {}

  Gated gate(const kernels::GateShape& s, Tensor, const ConstArray&) const override {
    return {wide(s.tokens, s.experts),
            wide(s.tokens, s.active),
            make(s.tokens, s.active, DType::kInt32)};
  }
  void force_balanced(const Architecture&,
                      const kernels::GateShape&,
                      const ConstArray&,
                      const Array&,
                      const Array&) const override {}
  Tensor gate_input(const kernels::GateShape& s,
                    const kernels::BalanceLoss&,
                    const ConstArray&,
                    const ConstArray&,
                    const ConstArray&) const override {
    return wide(s.tokens, s.experts);
  }
  Tensor slots(const ConstArray& chosen, const ConstArray&) const override {
    return make(chosen.extent.rows, chosen.extent.columns, DType::kInt32);
  }
  void count(const ConstArray&, const Array&) const override {}
  void update_bias(const ConstArray&, double, const Array&) const override {}

  // Room for every choice.
  RowMap map_rows(const ConstArray& slots, int64_t experts, const Array&) const override {
    return map_of(slots, experts, slots.extent.size());
  }
  Tensor permute(const ExpertRows& rows, const ConstArray& x) const override {
    return make(rows.capacity(), x.extent.columns, x.extent.type);
  }
  Tensor unpermute(const ExpertRows& rows,
                   const ConstArray& x,
                   const ConstArray&,
                   const ConstArray&,
                   const Encoding& type) const override {
    return make(rows.tokens(), x.extent.columns, type.type);
  }
  Tensor of_rows(const ExpertRows& rows, const ConstArray&) const override {
    return wide(rows.capacity(), 1);
  }
  Tensor of_choices(const ExpertRows& rows, const ConstArray&) const override {
    return wide(rows.tokens(), rows.active());
  }
  Tensor beside(const ExpertRows& rows, const ConstArray& x, const ConstArray&) const override {
    return wide(x.extent.rows, x.extent.columns + rows.active());
  }
  Tensor columns(const ConstArray& x, Columns c) const override {
    return wide(x.extent.rows, c.count);
  }
  void put_columns(const ConstArray&, int64_t, const Array&) const override {}

  Tensor swiglu(const ConstArray& gate_up, const Weighted*, const Encoding& type) const override {
    return make(gate_up.extent.rows, gate_up.extent.columns / 2, type.type);
  }
  SwigluBack swiglu_input(const ConstArray&,
                          const ConstArray& gate_up,
                          const Weighted* rows,
                          const Encoding& type) const override {
    return {make(gate_up.extent.rows, gate_up.extent.columns, type.type),
            rows == nullptr ? Tensor() : wide(gate_up.extent.rows, 1)};
  }
  Tensor sum(Tensor x, std::initializer_list<ConstArray>, const Encoding& type) const override {
    return NullCompute::in_type(std::move(x), type);
  }
  void accumulate(const ConstArray&, const Array&) const override {}
  void count_bad(const ConstArray&, const Array&) const override {}

  Tensor embedding(const ConstArray& tokens,
                   const ConstArray& table,
                   const Encoding& type) const override {
    return make(tokens.extent.size(), table.extent.columns, type.type);
  }
  void embedding_weight(const ConstArray&, const ConstArray&, const Array&) const override {}
  Losses cross_entropy(const ConstArray& targets, const ConstArray&, const Array&) const override {
    return {wide(targets.extent.size(), 1), wide(targets.extent.size(), 1)};
  }
  void cross_entropy_input(const ConstArray&,
                           double,
                           const ConstArray&,
                           const Array&) const override {}
  void step_status(std::span<const ConstArray>,
                   const ConstArray&,
                   std::span<const ConstArray>,
                   const Array&) const override {}
  void adamw(const AdamwCall&) const override {}

 protected:
  Tensor wide(int64_t rows, int64_t columns) const {
    return NullCompute::make(rows, columns, DType::kFp32);
  }
  Tensor like(const ConstArray& x) const { return wide(x.extent.rows, x.extent.columns); }
  RowMap map_of(const ConstArray& slots, int64_t experts, int64_t capacity) const {
    return {NullCompute::make(experts, 1, DType::kInt32),
            NullCompute::make(capacity, 1, DType::kInt32),
            NullCompute::make(capacity, 1, DType::kInt32),
            NullCompute::make(slots.extent.rows, slots.extent.columns, DType::kInt32)};
  }

  BufferPool& pool_;
};

}  // namespace rehearse
