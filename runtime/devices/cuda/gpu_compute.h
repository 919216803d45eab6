#pragma once
// The typed operations on a GPU, in FP32, BF16 and FP8: this project's kernels
// (kernels/layer_gpu/), one behind the other on the card's stream. Experts' rows are padded to 128
// each, in arrays with room for every choice.

#include "plan/program/card_room.h"
#include "runtime/compute/compute.h"
#include "runtime/devices/cuda/gpu/gpu.h"

namespace rehearse {

// Rotations of positions, on the card.
struct GpuRopeTable {
  GpuRopeTable(Gpu& gpu, const kernels::RopeTable& table);
  ~GpuRopeTable();
  GpuRopeTable(const GpuRopeTable&) = delete;
  GpuRopeTable& operator=(const GpuRopeTable&) = delete;
  int64_t length, width;
  float* cosine;  // [length, width / 2]
  float* sine;

 private:
  Memory& memory_;
};

class GpuCompute : public Compute {
 public:
  // All must outlive it; the pool is of the card's memory.
  GpuCompute(BufferPool& pool, Gpu& gpu, const GpuRopeTable& rope, const CardRoom& room)
      : pool_(pool), gpu_(gpu), k_(gpu.kernels), rope_(rope), room_(room) {}

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
  // What a kernel writes that becomes of the type: values, of which codes are made behind it.
  Tensor written(int64_t rows, int64_t columns, const Encoding& type) const {
    return make(rows, columns, is_scaled(type.type) ? DType::kFp32 : type.type);
  }
  // An operand as kernels read it: itself, or what its codes stand for. rows: of experts.
  class Readable {
   public:
    explicit Readable(const ConstArray& x) : view_(x) {}
    explicit Readable(Tensor&& own) : own_(std::move(own)), view_(own_) {}
    operator const ConstArray&() const { return view_; }

   private:
    Tensor own_;
    ConstArray view_;
  };
  Readable readable(const ConstArray& x, const ExpertRows* rows = nullptr) const;
  // FP32 values of it.
  Tensor widened(const ConstArray& x, const ExpertRows* rows) const;
  // A weight gradient's operand as it is multiplied.
  Readable along_tokens(const ConstArray& x,
                        bool fp8,
                        const kernels::ScaleRule& rule,
                        const ExpertRows* rows) const;
  void encode(const ConstArray& from,
              const Array& to,
              const kernels::ScaleRule& rule,
              const ExpertRows* rows) const;
  // Experts' matrices of values, and where they are on the card.
  struct Matrices {
    std::vector<Tensor> own;
    Tensor list;
    bool narrow = false;
    const void* pointers() const { return list.array().data; }
  };
  Matrices matrices(std::span<const ConstArray> w) const;
  // A few of the host's values, on the card.
  Tensor uploaded(const void* values, size_t bytes) const;
  Tensor pointers(std::span<const ConstArray> to) const;
  template <typename Call>
  void start(void (*kernel)(const Call&, kernels::Stream),
             const std::type_identity_t<Call>& call) const {
    gpu_.launch([=](kernels::Stream stream) { kernel(call, stream); });
  }
  void move(const kernels::GpuMove& m) const { start(k_.move, m); }

  BufferPool& pool_;
  Gpu& gpu_;
  const kernels::KernelSet& k_;
  const GpuRopeTable& rope_;
  const CardRoom& room_;
};

}  // namespace rehearse
