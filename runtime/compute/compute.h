#pragma once
// What a device must be able to compute for a rank: typed operations on arrays. Layers say which,
// in order (runtime/layers/); a device says how.
//
// Every operation takes arrays of any type that the recipe names and computes as if in FP32: what
// it reads is exact in FP32, what it leaves is rounded once, to the type asked for. T is tokens, R
// rows of experts; a matrix is [rows, columns], row-major. Results are new tensors on the rank's
// pool. Tensors that an operation takes by value are used up: their memory may be the result's.

#include <initializer_list>
#include <span>
#include <vector>

#include "cost/architecture.h"
#include "kernels/attention/attention.h"
#include "kernels/gate/gate.h"
#include "kernels/permute/permute.h"
#include "kernels/rope/rope.h"
#include "runtime/tensor.h"

namespace rehearse {

// Which experts' rows are where, and how many each has: made by map_rows, used by what moves rows
// and by grouped products. Devices need not have the numbers on the host.
using RowMap = kernels::RowMap;

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
  Tensor scores;                // [T, experts], FP32
  Tensor weights;               // [T, active], FP32
  std::vector<int32_t> chosen;  // [T, active]
};

struct SwigluBack {
  Tensor d_gate_up;      // as gate_up
  Tensor d_row_weights;  // [rows, 1], FP32; empty for rows without weights
};

struct Losses {
  Tensor losses, lse;  // [T, 1], FP32
  double sum = 0;      // over tokens that have a target
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
  // x in another type; x itself where it is of it.
  virtual Tensor in_type(Tensor x, DType type) const = 0;

  // --- products: x [m, k], w [n, k], y [m, n]
  // y = x w^T + addend.
  virtual Tensor product(const ConstArray& x,
                         const ConstArray& w,
                         DType type,
                         const ConstArray& addend = {}) const = 0;
  // dx = dy w, FP32; and added to dx, which becomes FP32.
  virtual Tensor product_input(const ConstArray& dy, const ConstArray& w) const = 0;
  virtual void add_product_input(const ConstArray& dy, const ConstArray& w, Tensor& dx) const = 0;
  // dw += dy^T x.
  virtual void product_weight(const ConstArray& dy, const ConstArray& x, const Array& dw) const = 0;
  // The same for rows of experts, each with a matrix of its own: one operation.
  virtual Tensor grouped_product(const ConstArray& x,
                                 std::span<const ConstArray> w,
                                 const RowMap& rows,
                                 DType type) const = 0;
  virtual Tensor grouped_product_input(const ConstArray& dy,
                                       std::span<const ConstArray> w,
                                       const RowMap& rows,
                                       DType type) const = 0;
  virtual void grouped_product_weight(const ConstArray& dy,
                                      const ConstArray& x,
                                      const RowMap& rows,
                                      std::span<const Array> dw) const = 0;

  // --- norms, of the first gain.size() columns of x
  virtual Normed norm(const ConstArray& x,
                      const ConstArray& gain,
                      double eps,
                      DType type) const = 0;
  virtual Tensor norm_input(const NormBack& n, double eps) const = 0;  // FP32
  // Into the first columns of dx, FP32.
  virtual void norm_input_into(const NormBack& n, double eps, Tensor& dx) const = 0;

  // --- attention
  virtual Tensor turned(Tensor x, const Rotation& r, kernels::Turn turn, DType type) const = 0;
  virtual Attended attention(const kernels::AttentionShape& s,
                             const AttentionOperands& a,
                             DType type) const = 0;
  virtual AttentionBack attention_input(const kernels::AttentionShape& s,
                                        const ConstArray& d_o,
                                        const AttentionOperands& a,
                                        const ConstArray& o,
                                        const ConstArray& lse) const = 0;
  // [T, all] -> its parts; keys_alone: keys by themselves, for norms of heads.
  virtual Split split_heads(const HeadsShape& s, Tensor qkv, bool keys_alone) const = 0;
  virtual Tensor join_heads(const HeadsShape& s, Tensor q, Tensor kv) const = 0;
  // Keys by themselves [T, k] out of their places beside the values, and into them.
  virtual Tensor keys_of(const HeadsShape& s, const Tensor& kv) const = 0;
  virtual void put_keys(const HeadsShape& s, const Tensor& k, Tensor& kv) const = 0;

  // --- the router
  virtual Gated gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const = 0;
  // Choices of a fixed balanced pattern instead of the gate's, with the weights of these.
  virtual void force_balanced(const Architecture& model,
                              const kernels::GateShape& s,
                              Gated& g) const = 0;
  virtual Tensor gate_input(const kernels::GateShape& s,
                            const kernels::BalanceLoss& loss,
                            const ConstArray& d_weights,
                            const ConstArray& scores,
                            std::span<const int32_t> chosen) const = 0;
  // Slots of the experts chosen; where none are given, experts stand in order.
  virtual std::vector<int32_t> slots(std::span<const int32_t> chosen,
                                     std::span<const int32_t> slot_of) const = 0;
  // Adds how many chose each expert.
  virtual void count(std::span<const int32_t> chosen, std::span<int64_t> load) const = 0;

  // --- rows of experts
  virtual RowMap map_rows(std::span<const int32_t> slots,
                          int64_t active,
                          int64_t experts) const = 0;
  virtual Tensor permute(const RowMap& rows, const ConstArray& x) const = 0;  // of x's type
  // Sums of a token's rows, and the addends that there are.
  virtual Tensor unpermute(const RowMap& rows,
                           int64_t active,
                           const ConstArray& x,
                           const ConstArray& first,
                           const ConstArray& second,
                           DType type) const = 0;
  // Entries of [tokens, active] of the rows, [R, 1]; and back, 0 where a choice has no row here.
  virtual Tensor of_rows(const RowMap& rows, const ConstArray& choices) const = 0;
  virtual Tensor of_choices(const RowMap& rows, int64_t active, const ConstArray& x) const = 0;
  // [x | of_choices(y)] side by side, and apart again: FP32.
  virtual Tensor beside(const RowMap& rows,
                        int64_t active,
                        const ConstArray& x,
                        const ConstArray& y) const = 0;
  virtual Tensor columns(const ConstArray& x, Columns c) const = 0;
  virtual void put_columns(const ConstArray& x, int64_t first, Tensor& into) const = 0;

  // --- elementwise
  // SwiGLU, of rows weighted where weights are given.
  virtual Tensor swiglu(const ConstArray& gate_up,
                        const ConstArray& row_weights,
                        DType type) const = 0;
  virtual SwigluBack swiglu_input(const ConstArray& d_activated,
                                  const ConstArray& gate_up,
                                  const ConstArray& row_weights,
                                  DType type) const = 0;
  // x and the addends that there are, one after the other.
  virtual Tensor sum(Tensor x, std::initializer_list<ConstArray> addends, DType type) const = 0;
  // gradient += x.
  virtual void accumulate(const ConstArray& x, const Array& gradient) const = 0;
  virtual bool all_finite(const ConstArray& x) const = 0;

  // --- the model's ends
  virtual Tensor embedding(std::span<const int32_t> tokens,
                           const ConstArray& table,
                           DType type) const = 0;
  virtual void embedding_weight(std::span<const int32_t> tokens,
                                const ConstArray& dx,
                                const Array& d_table) const = 0;
  // targets: negative where there is none.
  virtual Losses cross_entropy(std::span<const int32_t> targets,
                               const ConstArray& logits) const = 0;
  // Logits become their gradient; scale: the weight of a token.
  virtual void cross_entropy_input(std::span<const int32_t> targets,
                                   double scale,
                                   const ConstArray& lse,
                                   Tensor& logits) const = 0;
};

}  // namespace rehearse
