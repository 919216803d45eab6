#pragma once
// What a device must be able to compute for a rank: typed operations on arrays. Layers say which,
// in order (runtime/layers/); a device says how.
//
// Every operation takes arrays of any type that the recipe names and computes as if in FP32: what
// it reads is exact in FP32, what it leaves is rounded once, to the type asked for. T is tokens, R
// rows of experts; a matrix is [rows, columns], row-major. Results are new tensors on the rank's
// pool. Tensors that an operation takes by value are used up: their memory may be the result's.
//
// A device may do the work later, in the order that it was asked on a lane: choices, counts and
// sums are arrays too, and the host reads them when the step has ended. Outside of ops work is done
// when the call returns.

#include <cmath>
#include <initializer_list>
#include <span>

#include "cost/architecture.h"
#include "kernels/adamw/adamw.h"
#include "kernels/attention/attention.h"
#include "kernels/gate/gate.h"
#include "kernels/rope/rope.h"
#include "runtime/memory/tensor.h"

namespace rehearse {

// Which experts' rows are where, and how many each has: made by map_rows, used by what moves rows
// and by grouped products. Rows stand by expert, within an expert by token. Arrays of R rows have
// room for `capacity` of them, which a device may have to choose before it knows how many come.
struct RowMap {
  Tensor expert_rows;    // [experts, 1], INT32
  Tensor token_of_row;   // [capacity, 1], INT32
  Tensor choice_of_row;  // [capacity, 1], INT32: index into the token's choices
  Tensor row_of;         // [tokens, active], INT32; kernels::kNoRow for experts of other ranks

  bool empty() const { return row_of.empty(); }
};
// What operations take of one.
struct ExpertRows {
  ExpertRows(const RowMap& map)
      : expert_rows(map.expert_rows),
        token_of_row(map.token_of_row),
        choice_of_row(map.choice_of_row),
        row_of(map.row_of) {}
  ConstArray expert_rows, token_of_row, choice_of_row, row_of;

  int64_t capacity() const { return token_of_row.extent.rows; }
  int64_t tokens() const { return row_of.extent.rows; }
  int64_t active() const { return row_of.extent.columns; }
};

// What becomes of the operands of a weight gradient, [tokens, columns], before they are multiplied:
// E4M3 along tokens, a scale per column and 128 tokens, from an expert's first row on (DeepSeek-V3
// report, section 3.3.2); or they are taken as they come.
struct AlongTokens {
  bool fp8 = false;
  kernels::ScaleRule dy, x;
};

// Some columns of a matrix.
struct Columns {
  int64_t first = 0;
  int64_t count = 0;
};

// Heads of [T, heads x stride], whose parts from `first` on turn by position.
struct Rotation {
  int64_t heads = 1;
  int64_t stride = 0;  // columns between heads
  int64_t first = 0;   // column
  kernels::RopePairs pairs = kernels::RopePairs::kNeighbours;
};

// A product's result and an RMSNorm's.
struct Normed {
  Tensor y;        // [rows, width]
  Tensor inverse;  // [rows, 1], FP32: one over the root mean square
};

// One norm going back.
struct NormBack {
  ConstArray dy;       // [rows, width]
  ConstArray x;        // [rows, columns], of which the first `width` were normed
  ConstArray gain;     // [width]
  ConstArray inverse;  // [rows, 1]
  ConstArray addend;   // [rows, width] added to dx, or none
  Array d_gain;        // [width], FP32: added to
};

struct Attended {
  Tensor o;    // [T, heads x v_head]
  Tensor lse;  // [T, heads], FP32
};
struct AttentionOperands {
  ConstArray q, kv;
  ConstArray shared;  // MLA's kv_a, of which the columns from `shared_first` on are the key's
  int64_t shared_first = 0;
};
struct AttentionBack {
  Tensor dq, dkv;   // FP32, as q and kv
  Tensor d_shared;  // FP32, as kv_a: the key's columns alone are written; empty without
};

struct Gated {
  Tensor scores;   // [T, experts], FP32
  Tensor weights;  // [T, active], FP32
  Tensor chosen;   // [T, active], INT32
};

struct SwigluBack {
  Tensor d_gate_up;      // as gate_up
  Tensor d_row_weights;  // [rows, 1], FP32; empty for rows without weights
};

struct Losses {
  Tensor losses, lse;  // [T, 1], FP32
};

// How a step has come out, in FP64: of one rank, and summed over all.
struct StepStatus {
  static constexpr int64_t kSquares = 0;    // of the gradient
  static constexpr int64_t kOverflow = 1;   // rows that found no room
  static constexpr int64_t kBadLosses = 2;  // micro-batches whose loss is not finite
  static constexpr int64_t kSize = 3;
};
// Whether weights, moments and biases follow from a step of this status.
inline bool step_applies(const double* status) {
  return std::isfinite(status[StepStatus::kSquares]) && status[StepStatus::kOverflow] == 0 &&
         status[StepStatus::kBadLosses] == 0;
}

// AdamW over a rank's shard of an arena, where the step's status allows it: all is finite and had
// room. Else nothing is changed.
struct AdamwCall {
  // A parameter's part of the shard.
  struct Segment {
    int64_t begin = 0, end = 0;
    double weight_decay = 0;
  };
  kernels::AdamWSettings settings;  // but for decay and the gradient's scale
  double clip = 0;                  // of the gradient's norm; 0: none
  double ema = 0;                   // the average's decay
  std::span<const Segment> segments;
  ConstArray status;     // [StepStatus::kSize]
  ConstArray gradients;  // of the shard, FP32
  Array weights;         // likewise: the masters where there are some
  Array rounded;         // the shard's weights in their own type, where there are masters; or none
  Array m, v;            // FP32 or BF16
  Array average;         // FP32, or none
};

// Widths of grouped-query attention's one product: [queries | keys | values].
struct HeadsShape {
  int64_t heads = 0, kv_heads = 0;
  int64_t qk = 0, v = 0;
  int64_t q() const { return heads * qk; }
  int64_t k() const { return kv_heads * qk; }
  int64_t kv() const { return kv_heads * (qk + v); }
  int64_t all() const { return q() + kv(); }
};
struct Split {
  Tensor q, k, kv;  // FP32; k: keys alone, or empty, and then they stand beside their values in kv
};

class Compute {
 public:
  virtual ~Compute() = default;

  // --- memory
  virtual Tensor make(int64_t rows, int64_t columns, DType type) const = 0;  // whatever is in it
  virtual Tensor zeros(int64_t rows, int64_t columns) const = 0;             // FP32
  // x in another type; x itself where it is of it. rows: of experts, where it is these.
  virtual Tensor in_type(Tensor x,
                         const Encoding& type,
                         const ExpertRows* rows = nullptr) const = 0;
  virtual void copy(const ConstArray& from, const Array& to) const = 0;
  // The same values in another type.
  virtual void encode(const ConstArray& from,
                      const Array& to,
                      const kernels::ScaleRule& rule) const = 0;
  virtual void clear(const Array& x) const = 0;  // to zeros
  // From the host's memory, taken over before the call returns: [n, 1].
  virtual Tensor from_host(std::span<const int32_t> values) const = 0;
  // Into the host's memory, where it stands when the step has ended.
  virtual void to_host(const ConstArray& x, void* to) const = 0;

  // --- products: x [m, k], w [n, k], y [m, n]
  // y = x w^T + addend.
  virtual Tensor product(const ConstArray& x,
                         const ConstArray& w,
                         const Encoding& type,
                         const ConstArray& addend = {}) const = 0;
  // dx = dy w, FP32; and added to dx.
  virtual Tensor product_input(const ConstArray& dy, const ConstArray& w) const = 0;
  virtual Tensor add_product_input(const ConstArray& dy, const ConstArray& w, Tensor dx) const = 0;
  // dw += dy^T x.
  virtual void product_weight(const ConstArray& dy,
                              const ConstArray& x,
                              const AlongTokens& rounded,
                              const Array& dw) const = 0;
  // The same for rows of experts, each with a matrix of its own: one operation.
  virtual Tensor grouped_product(const ConstArray& x,
                                 std::span<const ConstArray> w,
                                 const ExpertRows& rows,
                                 const Encoding& type) const = 0;
  virtual Tensor grouped_product_input(const ConstArray& dy,
                                       std::span<const ConstArray> w,
                                       const ExpertRows& rows,
                                       const Encoding& type) const = 0;
  virtual void grouped_product_weight(const ConstArray& dy,
                                      const ConstArray& x,
                                      const AlongTokens& rounded,
                                      const ExpertRows& rows,
                                      std::span<const Array> dw) const = 0;

  // --- norms, of the first gain.size() columns of x
  virtual Normed norm(const ConstArray& x,
                      const ConstArray& gain,
                      double eps,
                      const Encoding& type) const = 0;
  virtual Tensor norm_input(const NormBack& n, double eps) const = 0;  // FP32
  // Into the first columns of dx, FP32.
  virtual void norm_input_into(const NormBack& n, double eps, const Array& dx) const = 0;

  // --- attention
  virtual Tensor turned(Tensor x,
                        const Rotation& r,
                        kernels::Turn turn,
                        const Encoding& type) const = 0;
  virtual Attended attention(const kernels::AttentionShape& s,
                             const AttentionOperands& a,
                             const Encoding& type) const = 0;
  virtual AttentionBack attention_input(const kernels::AttentionShape& s,
                                        const ConstArray& d_o,
                                        const AttentionOperands& a,
                                        const ConstArray& o,
                                        const ConstArray& lse) const = 0;
  // [T, all] -> its parts; keys_alone: keys by themselves, for norms of heads.
  virtual Split split_heads(const HeadsShape& s, Tensor qkv, bool keys_alone) const = 0;
  virtual Tensor join_heads(const HeadsShape& s, Tensor q, Tensor kv) const = 0;
  // Keys by themselves [T, k] out of their places beside the values, and into them.
  virtual Tensor keys_of(const HeadsShape& s, const ConstArray& kv) const = 0;
  virtual void put_keys(const HeadsShape& s, const ConstArray& k, const Array& kv) const = 0;

  // --- the router
  virtual Gated gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const = 0;
  // Choices of a fixed balanced pattern instead of the gate's, with the weights of these.
  virtual void force_balanced(const Architecture& model,
                              const kernels::GateShape& s,
                              const ConstArray& scores,
                              const Array& weights,
                              const Array& chosen) const = 0;
  virtual Tensor gate_input(const kernels::GateShape& s,
                            const kernels::BalanceLoss& loss,
                            const ConstArray& d_weights,
                            const ConstArray& scores,
                            const ConstArray& chosen) const = 0;
  // Slots of the experts chosen: slot_of [experts], INT32.
  virtual Tensor slots(const ConstArray& chosen, const ConstArray& slot_of) const = 0;
  // Adds how many chose each expert: load [experts], INT64.
  virtual void count(const ConstArray& chosen, const Array& load) const = 0;
  // b += speed sign(mean load - load): load [experts], INT64 (report, section 2.1.2).
  virtual void update_bias(const ConstArray& load, double speed, const Array& bias) const = 0;

  // --- rows of experts
  // slots: [tokens, active], below `experts`; negative ones get no row. overflowed: [1], INT64,
  // grows by the rows that found no room.
  virtual RowMap map_rows(const ConstArray& slots,
                          int64_t experts,
                          const Array& overflowed) const = 0;
  virtual Tensor permute(const ExpertRows& rows, const ConstArray& x) const = 0;  // of x's type
  // Sums of a token's rows, and the addends that there are.
  virtual Tensor unpermute(const ExpertRows& rows,
                           const ConstArray& x,
                           const ConstArray& first,
                           const ConstArray& second,
                           const Encoding& type) const = 0;
  // Entries of [tokens, active] of the rows, [R, 1]; and back, 0 where a choice has no row here.
  virtual Tensor of_rows(const ExpertRows& rows, const ConstArray& choices) const = 0;
  virtual Tensor of_choices(const ExpertRows& rows, const ConstArray& x) const = 0;
  // [x | of_choices(y)] side by side, and apart again: FP32.
  virtual Tensor beside(const ExpertRows& rows, const ConstArray& x, const ConstArray& y) const = 0;
  virtual Tensor columns(const ConstArray& x, Columns c) const = 0;
  virtual void put_columns(const ConstArray& x, int64_t first, const Array& into) const = 0;

  // --- elementwise
  // SwiGLU; rows of experts, weighted, where they are given.
  struct Weighted {
    ExpertRows rows;
    ConstArray weights;  // [R, 1]
  };
  virtual Tensor swiglu(const ConstArray& gate_up,
                        const Weighted* rows,
                        const Encoding& type) const = 0;
  virtual SwigluBack swiglu_input(const ConstArray& d_activated,
                                  const ConstArray& gate_up,
                                  const Weighted* rows,
                                  const Encoding& type) const = 0;
  // x and the addends that there are, one after the other.
  virtual Tensor sum(Tensor x,
                     std::initializer_list<ConstArray> addends,
                     const Encoding& type) const = 0;
  // gradient += x.
  virtual void accumulate(const ConstArray& x, const Array& gradient) const = 0;
  // count [1], INT64: one more where not all of x is finite.
  virtual void count_bad(const ConstArray& x, const Array& count) const = 0;

  // --- the model's ends
  // tokens, targets: [T, 1], INT32; a target is negative where there is none.
  virtual Tensor embedding(const ConstArray& tokens,
                           const ConstArray& table,
                           const Encoding& type) const = 0;
  virtual void embedding_weight(const ConstArray& tokens,
                                const ConstArray& dx,
                                const Array& d_table) const = 0;
  // sum [1], FP64: becomes the sum over tokens that have a target.
  virtual Losses cross_entropy(const ConstArray& targets,
                               const ConstArray& logits,
                               const Array& sum) const = 0;
  // Logits become their gradient; scale: the weight of a token.
  virtual void cross_entropy_input(const ConstArray& targets,
                                   double scale,
                                   const ConstArray& lse,
                                   const Array& logits) const = 0;

  // --- the step's end
  // status [StepStatus::kSize] of this rank. gradients: FP32; overflowed: INT64; losses: FP64.
  virtual void step_status(std::span<const ConstArray> gradients,
                           const ConstArray& overflowed,
                           std::span<const ConstArray> losses,
                           const Array& status) const = 0;
  virtual void adamw(const AdamwCall& call) const = 0;
};

}  // namespace rehearse
