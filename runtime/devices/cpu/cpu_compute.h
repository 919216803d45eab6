#pragma once
// The typed operations on cores: this project's FP32 kernels on FP32 values, copies of what is of
// another type being made on the way, and results rounded once.

#include <optional>

#include "kernels/fp8_accumulation/fp8_accumulation.h"
#include "kernels/matmul/matmul.h"
#include "kernels/permute/permute.h"
#include "runtime/compute/compute.h"

namespace rehearse {

class CpuCompute : public Compute {
 public:
  // Pool and table must outlive it. accumulation: of FP8 products, as tensor cores make them; none:
  // FP32 sums of what the codes stand for.
  CpuCompute(BufferPool& pool,
             const kernels::RopeTable& rope,
             std::optional<kernels::Accumulation> accumulation = {})
      : pool_(pool), rope_(rope), accumulation_(accumulation) {}

  Tensor make(int64_t rows, int64_t columns, DType type) const override;
  Tensor zeros(int64_t rows, int64_t columns) const override;
  Tensor in_type(Tensor x, const Encoding& type, const ExpertRows* rows = nullptr) const override;
  void copy(const ConstArray& from, const Array& to) const override;
  void encode(const ConstArray& from,
              const Array& to,
              const kernels::ScaleRule& rule) const override;
  void clear(const Array& x) const override;
  Tensor from_host(std::span<const int32_t> values) const override;
  void to_host(const ConstArray& x, void* to) const override;
  Tensor product(const ConstArray& x,
                 const ConstArray& w,
                 const Encoding& type,
                 const ConstArray& addend) const override;
  Tensor product_input(const ConstArray& dy, const ConstArray& w) const override;
  Tensor add_product_input(const ConstArray& dy, const ConstArray& w, Tensor dx) const override;
  void product_weight(const ConstArray& dy,
                      const ConstArray& x,
                      const AlongTokens& rounded,
                      const Array& dw) const override;
  Tensor grouped_product(const ConstArray& x,
                         std::span<const ConstArray> w,
                         const ExpertRows& rows,
                         const Encoding& type) const override;
  Tensor grouped_product_input(const ConstArray& dy,
                               std::span<const ConstArray> w,
                               const ExpertRows& rows,
                               const Encoding& type) const override;
  void grouped_product_weight(const ConstArray& dy,
                              const ConstArray& x,
                              const AlongTokens& rounded,
                              const ExpertRows& rows,
                              std::span<const Array> dw) const override;
  Normed norm(const ConstArray& x,
              const ConstArray& gain,
              double eps,
              const Encoding& type) const override;
  Tensor norm_input(const NormBack& n, double eps) const override;
  void norm_input_into(const NormBack& n, double eps, const Array& dx) const override;
  Tensor turned(Tensor x,
                const Rotation& r,
                kernels::Turn turn,
                const Encoding& type) const override;
  Attended attention(const kernels::AttentionShape& s,
                     const AttentionOperands& a,
                     const Encoding& type) const override;
  AttentionBack attention_input(const kernels::AttentionShape& s,
                                const ConstArray& d_o,
                                const AttentionOperands& a,
                                const ConstArray& o,
                                const ConstArray& lse) const override;
  Split split_heads(const HeadsShape& s, Tensor qkv, bool keys_alone) const override;
  Tensor join_heads(const HeadsShape& s, Tensor q, Tensor kv) const override;
  Tensor keys_of(const HeadsShape& s, const ConstArray& kv) const override;
  void put_keys(const HeadsShape& s, const ConstArray& k, const Array& kv) const override;
  Gated gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const override;
  void force_balanced(const Architecture& model,
                      const kernels::GateShape& s,
                      const ConstArray& scores,
                      const Array& weights,
                      const Array& chosen) const override;
  Tensor gate_input(const kernels::GateShape& s,
                    const kernels::BalanceLoss& loss,
                    const ConstArray& d_weights,
                    const ConstArray& scores,
                    const ConstArray& chosen) const override;
  Tensor slots(const ConstArray& chosen, const ConstArray& slot_of) const override;
  void count(const ConstArray& chosen, const Array& load) const override;
  void update_bias(const ConstArray& load, double speed, const Array& bias) const override;
  RowMap map_rows(const ConstArray& slots, int64_t experts, const Array& overflowed) const override;
  Tensor permute(const ExpertRows& rows, const ConstArray& x) const override;
  Tensor unpermute(const ExpertRows& rows,
                   const ConstArray& x,
                   const ConstArray& first,
                   const ConstArray& second,
                   const Encoding& type) const override;
  Tensor of_rows(const ExpertRows& rows, const ConstArray& choices) const override;
  Tensor of_choices(const ExpertRows& rows, const ConstArray& x) const override;
  Tensor beside(const ExpertRows& rows, const ConstArray& x, const ConstArray& y) const override;
  Tensor columns(const ConstArray& x, Columns c) const override;
  void put_columns(const ConstArray& x, int64_t first, const Array& into) const override;
  Tensor swiglu(const ConstArray& gate_up,
                const Weighted* rows,
                const Encoding& type) const override;
  SwigluBack swiglu_input(const ConstArray& d_activated,
                          const ConstArray& gate_up,
                          const Weighted* rows,
                          const Encoding& type) const override;
  Tensor sum(Tensor x,
             std::initializer_list<ConstArray> addends,
             const Encoding& type) const override;
  void accumulate(const ConstArray& x, const Array& gradient) const override;
  void count_bad(const ConstArray& x, const Array& count) const override;
  Tensor embedding(const ConstArray& tokens,
                   const ConstArray& table,
                   const Encoding& type) const override;
  void embedding_weight(const ConstArray& tokens,
                        const ConstArray& dx,
                        const Array& d_table) const override;
  Losses cross_entropy(const ConstArray& targets,
                       const ConstArray& logits,
                       const Array& sum) const override;
  void cross_entropy_input(const ConstArray& targets,
                           double scale,
                           const ConstArray& lse,
                           const Array& logits) const override;
  void step_status(std::span<const ConstArray> gradients,
                   const ConstArray& overflowed,
                   std::span<const ConstArray> losses,
                   const Array& status) const override;
  void adamw(const AdamwCall& call) const override;

 private:
  Tensor wide(int64_t rows, int64_t columns) const { return {pool_, rows, columns}; }
  Fp32Values fp32(const ConstArray& x) const { return {x, pool_}; }
  // Rows of experts in another type.
  // y = x w^T, dx (+)= dy w, dw += dy^T x: of FP32 y, dx and dw.
  void multiply(const ConstArray& x, const ConstArray& w, float* y) const;
  void multiply_input(const ConstArray& dy,
                      const ConstArray& w,
                      kernels::Store store,
                      float* dx) const;
  void multiply_weight(const ConstArray& dy,
                       const ConstArray& x,
                       const AlongTokens& rounded,
                       float* dw) const;

  BufferPool& pool_;
  const kernels::RopeTable& rope_;
  std::optional<kernels::Accumulation> accumulation_;
};

}  // namespace rehearse
