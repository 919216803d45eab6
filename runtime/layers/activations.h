#pragma once
// What a layer keeps of one micro-batch between its ops, and the context those ops run in.
//
// The ops of a layer, in the order of the data:
//   forward   attn.F  (dispatch.F)  mlp.F  (combine.F)
//   backward  (combine.B)  mlp.B  (dispatch.B)  attn.B      for inputs
//             mlp.W, attn.W                                 for weights, any time after their B
// Tensors are of the type that the recipe keeps; what products alone read is as these take it, what
// SwiGLU and the core's backward wait for as the recipe says; of FP32 whatever that is: inverses
// and log-sums, scores, weights, logits, and gradients of these and of gains. An op reads and
// writes only fields that the Program's dependencies order, since the compute and the a2a lane of a
// rank run at the same time.

#include "runtime/communicators/lanes.h"
#include "runtime/compute/compute.h"
#include "runtime/compute/recipe.h"
#include "runtime/layers/parameters.h"
#include "runtime/memory/tensor.h"

namespace rehearse {

struct LayerContext {
  const Architecture& model;
  const Compute& compute;
  LaneCommunicator& lanes;
  const PrecisionRecipe& recipe;
  int64_t sequences = 0;  // of a micro-batch
  int64_t length = 0;
  Routing routing = Routing::kLearned;
  // Of the balance loss: alpha over the number, in the whole batch, of what it is taken over;
  // tokens of one of these.
  double balance_coefficient = 0;
  int64_t balance_length = 0;
  double softmax_factor = 1;  // YaRN's
  Recompute again;            // what is not kept for backward
  Array overflowed;           // [1]: rows of experts that found no room
  ConstArray slot_of = {};    // [experts], of the layer; none: experts stand in order

  int64_t tokens() const { return sequences * length; }
  // x as a product's operand or a message; itself where it is of that type.
  class Operand {
   public:
    Operand(const Tensor& x) : view_(x) {}
    Operand(Tensor&& own) : own_(std::move(own)), view_(own_) {}
    Operand(const Operand&) = delete;
    Operand& operator=(const Operand&) = delete;
    operator ConstArray() const { return view_; }

   private:
    Tensor own_;
    ConstArray view_;
  };
  Operand as(const Tensor& x, const Encoding& type) const;
  bool latent() const { return model.attention == AttentionKind::kLatent; }
  kernels::AttentionShape attention_shape() const;
  kernels::GateShape gate_shape() const;
  // What a result becomes that other ops read; and what a gradient does that products alone take.
  Tensor kept(Tensor x) const { return compute.in_type(std::move(x), recipe.kept); }
  Tensor gradient(Tensor x) const {
    return compute.in_type(std::move(x), recipe.products.gradient);
  }
};

// Weights and gradients of one layer.
struct LayerWeights {
  const LayerIds& ids;
  const ParameterValues& weights;
  ParameterValues& gradients;
  ConstArray expert_bias = {};  // [experts], or none

  ConstArray operand(ParameterId id) const { return weights.operand(id); }  // of a product
};

// Of a gated feed-forward network; T is tokens or rows.
struct FfnActivations {
  Tensor gate_up;    // [T, 2 width]
  Tensor activated;  // [T, width]
  Tensor d_gate_up;  // [T, 2 width]
};

struct LayerActivations {
  // Forward, kept for backward. D: hidden.
  Tensor x;                           // [T, D] the layer's input
  Tensor x_norm, x_inverse;           // [T, D], [T, 1]
  Tensor q_a, q_a_norm, q_a_inverse;  // [T, q_lora], ...
  Tensor q_raw, k_raw;                // [T, heads qk], [T, kv_heads qk] before norms of heads
  Tensor q;                           // [T, heads qk], rotated
  Tensor kv_a;                        // [T, kv_lora + qk_rope], the last part rotated
  Tensor kv_a_norm, kv_a_inverse;     // [T, kv_lora]
  Tensor kv;                          // [T, heads (qk_nope + v_head)]; [T, kv_heads (qk + v)]
  Tensor o, lse;                      // [T, heads v_head], [T, heads]
  Tensor h;                           // [T, D] after attention and residual
  Tensor h_norm, h_inverse;           // [T, D]
  FfnActivations dense, shared, routed;
  Tensor ffn_out;  // [T, D] of the shared expert; none without
  // Routing. R: rows, tokens x active experts.
  Tensor scores;   // [T, experts]
  Tensor chosen;   // [T, active]
  Tensor weights;  // [T, active]
  RowMap rows;
  Tensor row_weights;              // [R, 1]
  std::unique_ptr<Routes> routes;  // of the tokens, when experts stand on several ranks
  Tensor routed_in, routed_out;    // [R, D]

  // Backward, kept for the weight gradients.
  Tensor d_out;                      // [T, D] of the layer's output
  Tensor d_routed_out, d_routed_in;  // [R, D]
  Tensor d_row_weights;              // [R, 1]
  Tensor d_weights;                  // [T, active]
  Tensor d_h_norm;                   // [T, D]
  Tensor d_logits;                   // [T, experts]
  Tensor d_h;                        // [T, D]
  Tensor d_kv, d_kv_a, d_q, d_q_a, d_qkv;
  Tensor d_gains;  // [1, all gains of the layer] (GainOffsets)
};

// layers/attention.cpp. layer: x -> h_norm (and the gate's choice, for a MoE layer).
void attention_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// d_h_norm, d_out (and d_weights) -> returns dx, [T, D].
Tensor attention_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// h_norm, where it was not kept: before the backward of what follows it.
void post_norm_again(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// Adds to the gradients; nothing of the layer is needed afterwards.
void attention_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a);

// layers/dense.cpp. h_norm, h -> returns the layer's output; d_out -> d_h_norm.
Tensor dense_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
void dense_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
void dense_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a);

// layers/moe.cpp.
// call: null when this rank holds all experts of the layer.
// h_norm -> routed_in
void dispatch_forward(const LayerContext& c, const ExchangeOp* call, LayerActivations& a);
void experts_forward(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// Returns the layer's output.
Tensor combine_forward(const LayerContext& c, const ExchangeOp* call, LayerActivations& a);
// d_out -> d_routed_out
void combine_input(const LayerContext& c, const ExchangeOp* call, LayerActivations& a);
void experts_input(const LayerContext& c, const LayerWeights& w, LayerActivations& a);
// d_routed_in, d_row_weights -> d_h_norm, d_weights
void dispatch_input(const LayerContext& c, const ExchangeOp* call, LayerActivations& a);
void experts_weight(const LayerContext& c, const LayerWeights& w, LayerActivations& a);

// layers/head.cpp. The ends of the model.
// Rows of the embedding's table, [tokens, D].
Tensor embedded(const LayerContext& c, const ConstArray& tokens, const ConstArray& table);
void embedding_weight(const LayerContext& c,
                      const ConstArray& tokens,
                      const ConstArray& dx,
                      const Array& d_table);
struct HeadActivations {
  Tensor x, x_norm, x_inverse;  // [T, D]
  Tensor logits;                // [T, vocabulary]; after head_input their gradient
  Tensor losses, lse;           // [T, 1]
  Tensor d_gain;                // [1, D]
};
struct HeadWeights {
  ParameterId norm = 0;
  ParameterId projection = 0;
  const ParameterValues& weights;
  ParameterValues& gradients;
};
// targets: [T, 1], negative where there is none. sum [1]: becomes the sum of the tokens' losses.
void head_forward(const LayerContext& c,
                  const HeadWeights& w,
                  const ConstArray& targets,
                  const Array& sum,
                  HeadActivations& a);
// scale: the weight of one token in the loss. addend: another gradient of x, or null. Returns dx,
// [T, D].
Tensor head_input(const LayerContext& c,
                  const HeadWeights& w,
                  const ConstArray& targets,
                  double scale,
                  const Tensor* addend,
                  HeadActivations& a);
void head_weight(const LayerContext& c, const HeadWeights& w, HeadActivations& a);

}  // namespace rehearse
